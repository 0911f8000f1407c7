"""The fingerprint follows the code of a user's own modules, and of nobody else's."""

import importlib.util

import pytest
import timm
import torch
from torch import nn

from invariances import Representation
from invariances.representation.code import code_of, network_hash

SMALL = {"size": 16, "mean": 0.5, "std": 0.5}
SOURCE = """
from torch import nn

class Base(nn.Module):
    def last(self, x):
        return x

class Net(Base):
    \"\"\"A network.\"\"\"

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x):  # the pass
        return self.last(self.conv(x).relu())
"""


def network(tmp_path, source, name):
    path = tmp_path / f"{name}.py"
    path.write_text(source, encoding="utf-8")
    spec = importlib.util.spec_from_file_location("of_the_user", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    torch.manual_seed(0)
    return module.Net(), module


@pytest.mark.parametrize(
    ("old", "new", "same"),
    [
        (".relu()", ".abs().neg()", False),
        ("return x\n", "return x + 1\n", False),
        ("# the pass", "# another word", True),
        ("\n    def forward", "\n\n\n    def forward", True),
    ],
    ids=["forward", "a base's method", "a comment", "blank lines"],
)
@pytest.mark.parametrize("typed", [False, True], ids=["a file", "typed"])
def test_edited_code_is_another_network(tmp_path, monkeypatch, old, new, same, typed):
    if typed:
        monkeypatch.setattr("inspect.getsource", lambda kind: (_ for _ in ()).throw(OSError("no source")))
    one, first = network(tmp_path, SOURCE, "one")
    two, second = network(tmp_path, SOURCE.replace(old, new), "two")
    monkeypatch.setitem(__import__("sys").modules, "of_the_user", first)
    before = Representation(one, "conv", **SMALL).fingerprint()
    monkeypatch.setitem(__import__("sys").modules, "of_the_user", second)
    after = Representation(two, "conv", **SMALL).fingerprint()
    assert (before == after) is same


def test_code_of_known_packages_does_not_count():
    known = nn.Sequential(nn.Conv2d(3, 4, 3), timm.create_model("test_resnet"))
    assert list(code_of(known)) == []


def test_buffers_that_are_not_saved_count():
    def made(value):
        module = nn.Sequential(nn.Identity())
        module.register_buffer("mean", torch.tensor(value), persistent=False)
        return network_hash(module)

    assert made(1.0) != made(2.0)
    assert made(1.0) == made(1.0)


@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.bfloat16, torch.complex64, torch.float64])
def test_buffers_of_any_kind_count(dtype):
    def made(value):
        module = nn.Sequential(nn.Identity())
        module.register_buffer("table", torch.tensor(value).to(dtype))
        return network_hash(module)

    assert made(0) != made(1)


def test_sparse_weights_count():
    def made(value):
        module = nn.Sequential(nn.Identity())
        module.register_buffer("table", torch.eye(3).mul(value).to_sparse())
        return network_hash(module)

    assert made(1.0) != made(2.0)
