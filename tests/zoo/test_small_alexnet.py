"""AlexNet with a small head: layers by the paper's names, files, and what the shipped one names rightly."""

from pathlib import Path

import pytest
import torch

from invariances import UserError, zoo
from invariances.recipes.photos_classifier import ANIMALS, accuracies, classes_of, train_head
from invariances.representation.representation import Representation
from invariances.zoo.small_alexnet import Head, SmallAlexNet
from invariances.zoo.small_resnet import load_classifier, save_classifier

torch.set_num_threads(1)
SHIPPED = Path(zoo.__file__).parent / "weights" / "alexnet_animals.safetensors"
SHAPES = {
    "conv1": (64, 31, 31),
    "conv2": (192, 15, 15),
    "conv3": (384, 7, 7),
    "conv4": (256, 7, 7),
    "conv5": (256, 7, 7),
    "fc6": (16,),
    "fc7": (16,),
    "fc8": (3,),
    "softmax": (3,),
}


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return SmallAlexNet(["a", "b", "c"], 16).eval()


def test_layers_have_the_papers_names(network):
    for layer, shape in SHAPES.items():
        cut = Representation(network, layer)
        assert cut.shape == shape, layer
    assert cut.class_names == ["a", "b", "c"]
    images = torch.rand(2, 3, 64, 64) * 2 - 1
    assert float(Representation(network, "fc7")(images).min()) >= 0
    torch.testing.assert_close(
        Representation(network, "fc8")(images), Representation(network, "logits")(images)
    )


def test_a_file_brings_it_back(network, tmp_path):
    again = load_classifier(save_classifier(network, tmp_path / "a.safetensors", torch.float32, top1=0.5))
    x = torch.randn(1, 3, 128, 128)
    assert isinstance(again, SmallAlexNet)
    assert torch.equal(again(x), network(x))


def test_convolutions_are_taken_whole(network):
    other = SmallAlexNet(2, 4)
    other.take_convolutions(network.state_dict())
    assert torch.equal(other.features[10].weight, network.features[10].weight)
    with pytest.raises(UserError, match="hold no features"):
        other.take_convolutions({})
    with pytest.raises(UserError, match="two classes or more"):
        SmallAlexNet(1)


def test_a_head_learns_rare_classes_too():
    generator = torch.Generator().manual_seed(0)
    labels = (torch.arange(600) % 20 == 0).long()
    x = torch.randn(600, 8, generator=generator)
    x[labels == 1, 0] += 6
    head = train_head(Head(8, 16, 2), [x.half(), x.half()], labels, steps=250)
    with torch.inference_mode():
        right = head(x).argmax(dim=1) == labels
    assert right[labels == 1].float().mean() > 0.95
    assert right[labels == 0].float().mean() > 0.95


def test_other_dogs_are_one_class():
    labels = classes_of(["n01443537/a.jpg", "n02116738/b.jpg", "n02509815/c.jpg"])
    assert labels.tolist() == [0, len(ANIMALS), len(ANIMALS) - 1]
    logits = torch.nn.functional.one_hot(torch.tensor([0, 5, 65]), 67).float()
    assert accuracies(logits, labels) == {"top1": 0.6667, "top1_animals": 1.0, "mean_class": 0.6667}


@pytest.mark.skipif(not SHIPPED.is_file(), reason="not shipped yet")
def test_the_shipped_one_is_alexnet_and_small():
    network = zoo.load("alexnet_animals")
    assert SHIPPED.stat().st_size < 9_000_000
    assert len(network.classes) == 67
    shapes = {layer: Representation(network, layer).shape for layer in SHAPES}
    assert shapes["conv5"] == (256, 7, 7)
    assert shapes["softmax"] == (67,)
