import pytest
import timm
import torch
from torch import nn

from invariances.evaluation.classes import classes_of
from invariances.representation.representation import Representation


class Named(nn.Module):
    def __init__(self, head, name="fc", out=None):
        super().__init__()
        self.preprocessing = {"size": 8}
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        setattr(self, name, head)
        self.head_name = name
        self.out = out or nn.Identity()

    def forward(self, x):
        return self.out(getattr(self, self.head_name)(self.body(x)))


class Pooled(nn.Module):
    """A body without a head, whose mean over places no module takes."""

    def __init__(self, body):
        super().__init__()
        self.body = body

    def forward(self, x):
        return self.body(x).mean((2, 3))


@pytest.mark.parametrize(
    ("network", "kind", "reason"),
    [
        (Named(nn.Linear(4, 5)), "classes", ""),
        (Named(nn.Linear(4, 2), out=nn.Softmax(1)), "classes", ""),
        (Named(nn.Linear(4, 1)), "sign", ""),
        (Named(nn.Linear(4, 1), out=nn.Sigmoid()), "sign", ""),
        (Named(nn.Identity()), None, "ends in"),
        (Named(nn.Linear(4, 5), name="projection"), None, "embedding"),
        (Named(nn.Sequential(nn.Linear(4, 5), nn.ReLU())), None, "ends in a ReLU"),
        (nn.Sequential(nn.Conv2d(3, 4, 3)), None, "no vector"),
        (Pooled(nn.Conv2d(3, 4, 3)), None, "ends in a Conv2d"),
        (Named(nn.Sequential(nn.Unflatten(1, (4, 1, 1)), nn.Conv2d(4, 5, 1), nn.Flatten())), "classes", ""),
    ],
)
def test_which_networks_have_classes(network, kind, reason):
    found = classes_of(Representation(network, "input", size=8))
    assert found.kind == kind
    assert reason in found.reason


def test_names_make_classes_and_so_does_a_softmax_that_is_studied():
    network = Named(nn.Identity())
    network.class_names = ["a", "b", "c", "d"]
    assert classes_of(Representation(network, "body")).kind == "classes"
    network.class_names = ["a", "b"]
    assert classes_of(Representation(network, "body")).kind is None
    assert classes_of(Representation(Named(nn.Identity()), "softmax")).kind == "classes"


def test_classes_and_their_probabilities():
    several = classes_of(Representation(Named(nn.Linear(4, 3)), "fc"))
    assert several.of(torch.tensor([[0.0, 2.0, 1.0], [5.0, 2.0, 1.0]])).tolist() == [1, 0]
    one = classes_of(Representation(Named(nn.Linear(4, 1)), "fc"))
    assert one.of(torch.tensor([[0.3], [-0.2]])).tolist() == [1, 0]
    expected = torch.tensor([0.3]).double().sigmoid()
    assert torch.allclose(one.log_probabilities(torch.tensor([[0.3]])).exp()[:, 1], expected, atol=1e-7)


def test_weights_that_lack_the_head_have_no_classes(tmp_path):
    whole = timm.create_model("test_resnet").state_dict()
    torch.save({key: each for key, each in whole.items() if not key.startswith("fc")}, tmp_path / "body.pth")
    found = classes_of(Representation("test_resnet", "layer2", str(tmp_path / "body.pth")))
    assert found.kind is None
    assert "lack the head" in found.reason
