import pytest
import torch
from safetensors import safe_open

from invariances import UserError
from invariances.system.network_file import read_network, save_network
from invariances.zoo.small_resnet import SmallResNet, load_classifier, save_classifier


def test_half_precision_spares_whole_numbers_and_comes_back_as_float32(tmp_path):
    tensors = {"weight": torch.tensor([0.1, 70.0]), "count": torch.tensor([3, 100_000])}
    path = save_network(tmp_path / "a" / "n.safetensors", {"name": "toy", "width": 2}, tensors, torch.float16)
    with safe_open(path, "pt") as file:
        assert file.get_tensor("weight").dtype == torch.float16
    architecture, back = read_network(path, "toy", "toy", "make one")
    assert architecture == {"width": 2}
    assert back["weight"].dtype == torch.float32
    assert torch.equal(back["weight"], tensors["weight"].half().float())
    assert torch.equal(back["count"], tensors["count"])


def test_notes_are_kept(tmp_path):
    save_classifier(SmallResNet(["a", "b"], width=2), tmp_path / "c.safetensors", accuracy=0.5)
    with safe_open(tmp_path / "c.safetensors", "pt") as file:
        assert file.metadata()["notes"] == '{"accuracy": 0.5}'


@pytest.mark.parametrize("harm", ["truncated", "another kind", "missing"])
def test_what_is_no_classifier_gets_a_sentence_with_a_remedy(tmp_path, harm):
    path = tmp_path / "c.safetensors"
    if harm == "truncated":
        save_classifier(SmallResNet(2, width=2), path)
        path.write_bytes(path.read_bytes()[:500])
    elif harm == "another kind":
        save_network(path, {"name": "vae"}, {"a": torch.zeros(1)})
    with pytest.raises(UserError, match=r"c\.safetensors.*models build shapes"):
        load_classifier(path)


def test_others_may_read_the_file_as_the_umask_has_it(tmp_path):
    path = save_network(tmp_path / "n.safetensors", {"name": "toy"}, {"a": torch.zeros(1)})
    (tmp_path / "plain").write_text("")
    assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.parametrize(
    "change",
    [
        {"blocks": [10**7] * 4},
        {"width": 10**6},
        {"blocks": "four"},
        {"classes": 3},
        {"more": 1},
        {"blocks": [1]},
    ],
)
def test_a_classifier_that_claims_what_it_has_not_is_refused_at_once(tmp_path, change):
    network = SmallResNet(2, width=2)
    path = save_network(
        tmp_path / "c.safetensors", {"name": "SmallResNet", **network.config, **change}, network.state_dict()
    )
    with pytest.raises(UserError, match=r"c\.safetensors is damaged"):
        load_classifier(path)
