"""Networks that are no functions of the picture, images out of range, inputs of other kinds: each is a sentence."""

import copy
import dataclasses
import warnings
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from invariances import Representation, UserError

SMALL = {"size": 16, "mean": 0.5, "std": 0.5}


def images(n=3, size=16):
    return torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(1)) * 2 - 1


class Net(nn.Module):
    """A convolution, and then what `after` makes of its output."""

    def __init__(self, after, **modules):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.step = Step(after, **modules)
        self.fc = nn.Linear(4, 5)

    def forward(self, x):
        return self.fc(self.step(self.conv(x)).mean((2, 3)))


class Step(nn.Module):
    def __init__(self, after, **modules):
        super().__init__()
        self.after = after
        for name, module in modules.items():
            self.add_module(name, module)

    def forward(self, x):
        return self.after(self, x)


class Stays(nn.Dropout):
    """Monte Carlo dropout: never leaves training."""

    def train(self, mode=True):
        return super().train(True)


def counted(self, x):
    self.count = getattr(self, "count", 0) + 1
    return x + self.count


CHANCE = {
    "F.dropout": lambda: Net(lambda self, x: F.dropout(x)),
    "noise": lambda: Net(lambda self, x: x + 0.1 * torch.randn_like(x)),
    "dropout that stays": lambda: Net(lambda self, x: self.drop(x), drop=Stays(0.1)),
    "a counter": lambda: Net(counted),
}
MATES = {
    "BatchNorm2d": lambda: Net(
        lambda self, x: self.norm(x), norm=nn.BatchNorm2d(4, track_running_stats=False)
    ),
    "less the mean": lambda: Net(lambda self, x: x - x.mean(0)),
    "softmax over the batch": lambda: Net(lambda self, x: x.softmax(0)),
    "a tuple's first half": lambda: Net(lambda self, x: x.roll(1, 0)),
}
STEADY = {
    "F.dropout that ends": lambda: Net(lambda self, x: F.dropout(x, training=self.training)),
    "nn.Dropout": lambda: Net(lambda self, x: self.drop(x), drop=nn.Dropout(0.5)),
    "BatchNorm2d": lambda: Net(lambda self, x: self.norm(x), norm=nn.BatchNorm2d(4)),
    "InstanceNorm2d": lambda: Net(lambda self, x: self.norm(x), norm=nn.InstanceNorm2d(4)),
    "GroupNorm": lambda: Net(lambda self, x: self.norm(x), norm=nn.GroupNorm(2, 4)),
}


@pytest.mark.parametrize("name", CHANCE)
def test_chance_is_refused(name):
    with pytest.raises(
        UserError,
        match=r"layer 'step' of Net is no function of the picture: two passes .* differ by \S+ % .*check=False",
    ):
        Representation(CHANCE[name](), "step", **SMALL)(images())


@pytest.mark.parametrize("name", MATES)
def test_what_depends_on_the_batch_is_refused(name):
    with pytest.raises(
        UserError, match=r"'step' of Net is no function .* alone and beside another differ by"
    ):
        Representation(MATES[name](), "step", **SMALL)(images())


def test_the_difference_is_said():
    class Double(nn.Module):
        def forward(self, x):
            return x * (2 if len(x) == 1 else 1)

    with pytest.raises(UserError, match=r"differ by 100 % of the largest value"):
        Representation(nn.Sequential(Double()), "0", **SMALL)(images())


def test_a_network_that_cannot_take_one_picture():
    class Pairs(nn.Module):
        def forward(self, x):
            return x - x.view(2, -1).mean(0).view(x.shape[1:]) if len(x) == 2 else x.view(2, 3, 16, 16)

    with pytest.raises(UserError, match=r"runs on two pictures and not on one"):
        Representation(nn.Sequential(Pairs()), "0", **SMALL)(images())


@pytest.mark.parametrize("name", [*CHANCE, *MATES])
def test_the_layers_before_are_taken_and_all_if_asked_to(name):
    network = {**CHANCE, **MATES}[name]()
    at = Representation(network, "conv", **SMALL)
    assert at(images()).shape == (3, 4, 14, 14)
    with pytest.raises(UserError, match="the output of Net is no function"):
        at.with_logits(images())
    unchecked = Representation(at, "step", check=False)
    assert unchecked(images()).shape == (3, 4, 14, 14)
    assert unchecked.at("fc").spec()["check"] is False
    again = Representation.from_spec(unchecked.spec(), network)
    assert again(images()).shape == (3, 4, 14, 14)
    with pytest.raises(UserError, match="no function of the picture"):
        Representation(unchecked, "step", check=True)(images())


@pytest.mark.parametrize("name", STEADY)
def test_functions_of_the_picture_are_taken(name):
    assert Representation(STEADY[name](), "step", **SMALL)(images()).shape[0] == 3


def test_the_callers_chance_is_left_alone_by_the_trial():
    torch.manual_seed(7)
    expected = torch.rand(2)
    network = CHANCE["noise"]()
    torch.manual_seed(7)
    with pytest.raises(UserError):
        Representation(network, "step", **SMALL)(images())
    assert torch.equal(torch.rand(2), expected)


# ------------------------------------------------------------------------------------------------- images' values


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda x: (x + 1) * 127.5, r"values from .* to 25\d.*divide by 127.5"),
        (lambda x: ((x + 1) / 2 - 0.45) / 0.226, "look normalised"),
        (lambda x: x * 1.2, "clamp"),
        (lambda x: x / 0, "no finite numbers"),
    ],
)
@pytest.mark.parametrize("layer", ["input", "conv", "logits"])
def test_images_out_of_range_are_refused(make, words, layer):
    at = Representation(STEADY["GroupNorm"](), layer, **SMALL)
    x = images()
    x[0, 0, 0, :2] = torch.tensor([-1.0, 1.0])
    assert len(at.shape) in (1, 3)  # asks with an image of zeros, which says nothing of those to come
    with pytest.raises(UserError, match=words):
        at(make(x))
    assert torch.isfinite(at(x * 1.0005)).all()  # rounding
    assert torch.isfinite(at(x * 1.2)).all()  # a decoder's; only the first images are looked at


def test_a_representation_works_under_vmap():
    at = Representation(STEADY["GroupNorm"](), "fc", **SMALL)
    x = images()
    at(x)
    torch.testing.assert_close(torch.func.vmap(lambda each: at(each[None])[0])(x), at(x))


# --------------------------------------------------------------------------------------------- channels and inputs


def of_channels(channels):
    network = nn.Sequential(nn.Conv2d(channels, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return network.eval()


def test_grey_networks_get_the_mean():
    network, x = of_channels(1), images()
    at = Representation(network, "1", size=16, mean=0.1307, std=0.3081)
    grey = ((x + 1) / 2).mean(1, keepdim=True)
    with torch.no_grad():
        torch.testing.assert_close(at(x), network[:2]((grey - 0.1307) / 0.3081))
    assert at.at("input")(x).shape == (3, 1, 16, 16)
    assert Representation.layers(network, size=16)["input"] == (1, 16, 16)
    averaged = Representation(network, "input", size=16)(x)  # ImageNet's three
    torch.testing.assert_close(averaged, (grey - 0.449) / 0.226, atol=1e-4, rtol=1e-4)


def test_four_channels_get_an_opaque_alpha():
    network, x = of_channels(4), images()
    inputs = Representation(network, "input", size=16)(x)
    torch.testing.assert_close(inputs[:, :3], Representation(of_channels(3), "input", size=16)(x))
    assert torch.equal(inputs[:, 3], torch.ones(3, 16, 16))
    own = Representation(network, "input", size=16, mean=(0.5, 0.5, 0.5, 0.2), std=(0.5, 0.5, 0.5, 0.4))(x)
    torch.testing.assert_close(own[:, 3], torch.full((3, 16, 16), 2.0))
    assert Representation(network, "1", **SMALL)(x).shape == (3, 4, 14, 14)


def test_a_grey_network_without_convolutions():
    network = nn.Sequential(nn.Flatten(), nn.Linear(16 * 16, 5))
    at = Representation(network, "1", **SMALL)
    x = images()
    with torch.no_grad():
        torch.testing.assert_close(at(x), network(x.mean(1)))


class Two(nn.Module):
    def forward(self, image, text):
        return image + text


class Five(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(5, 4, 3)

    def forward(self, x):
        return self.conv(x)


@pytest.mark.parametrize(
    ("network", "words"),
    [
        (Two(), r"Two takes 2 inputs \(image, text\).*its part that sees images"),
        (nn.Sequential(nn.Conv3d(3, 4, 3)), "takes video.*makes a clip"),
        (Five(), "takes images of 5 channels"),
        (nn.Sequential(nn.Flatten(), nn.Linear(10, 2)), "cannot be run on images of 16×16"),
        (nn.Sequential(nn.Embedding(10, 2)), "cannot be run on images of 16×16"),
    ],
    ids=lambda each: type(each).__name__ if isinstance(each, nn.Module) else "",
)
def test_other_inputs_get_a_sentence_that_fits(network, words):
    with pytest.raises(UserError, match=words):
        Representation(network, "logits", **SMALL)(images())


# --------------------------------------------------------------------------------------------- memory layout


class View(nn.Module):
    """As classic networks are written; their `view` refuses memory that is laid out channels-last."""

    def __init__(self):
        super().__init__()
        self.features = nn.Conv2d(3, 4, 3, padding=1)
        self.fc = nn.Linear(4 * 16 * 16, 5)

    def forward(self, x):
        x = self.features(x)
        return self.fc(x.view(x.size(0), -1))


class Strides(View):
    """Answers otherwise where memory is laid out channels-last."""

    def forward(self, x):
        x = self.features(x)
        return self.fc(x.as_strided((len(x), 4 * 16 * 16), (4 * 16 * 16, 1)).contiguous())


class Reshape(View):
    def forward(self, x):
        return self.fc(self.features(x).flatten(1))


@pytest.mark.parametrize(("kind", "fast"), [(View, False), (Strides, False), (Reshape, True)])
def test_channels_last_is_tried_and_given_up(kind, fast):
    torch.manual_seed(0)
    network = kind().eval()
    x = images()
    at = Representation(network, "fc", **SMALL)
    with torch.no_grad():
        want = network(x.contiguous())
    torch.testing.assert_close(at(x.contiguous(memory_format=torch.channels_last)), want)
    torch.testing.assert_close(at(x.permute(2, 3, 0, 1).contiguous().permute(2, 3, 0, 1)), want)
    (extractor,) = at._cuts._extractors.values()
    assert extractor.takes_channels_last() is fast


# ------------------------------------------------------------------------------------------------- kinds of modules


class ReturnsNothing(nn.Module):
    """`train` as some write it."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.drop = nn.Dropout(0.5)

    def train(self, mode=True):
        super().train(mode)

    def forward(self, x):
        return self.drop(self.conv(x))


class ExtraState(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.note = nn.Conv2d(3, 4, 3), {"steps": 3, "scale": torch.ones(2)}

    def get_extra_state(self):
        return self.note

    def set_extra_state(self, state):
        self.note = state

    def forward(self, x):
        return self.conv(x)


@pytest.mark.parametrize("kind", [ReturnsNothing, ExtraState])
def test_odd_modules(kind):
    torch.manual_seed(0)
    network = kind()
    at = Representation(network, "conv", **SMALL)
    assert at.with_logits(images())[0].shape == (3, 4, 14, 14)
    before = at.fingerprint()
    assert Representation(copy.deepcopy(network), "conv", **SMALL).fingerprint() == before
    if kind is ExtraState:
        network.note["steps"] = 4
        assert Representation(network, "conv", **SMALL).fingerprint() != before


@pytest.mark.filterwarnings("ignore")
def test_quantised_modules():
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 6), nn.ReLU(), nn.Linear(6, 5)).eval()
    quantised = torch.ao.quantization.quantize_dynamic(network, {nn.Linear})
    at = Representation(quantised, "1", **SMALL)
    with torch.no_grad():
        torch.testing.assert_close(at(images()), quantised[1](quantised[0](images())), atol=0.02, rtol=0.02)
    last = at.at("3")  # whose input's steps depend on the whole batch
    assert last(images()).shape == (3, 5)
    other = copy.deepcopy(network)
    other[1].weight.data.mul_(-1)
    changed = torch.ao.quantization.quantize_dynamic(other, {nn.Linear})
    assert Representation(changed, "1", **SMALL).fingerprint() != at.fingerprint()


@pytest.mark.filterwarnings("ignore")
def test_torchscript_is_taken_whole_or_refused():
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    for script in (torch.jit.script(network), torch.jit.trace(network, images())):
        at = Representation(script, "logits", **SMALL)
        with torch.no_grad():
            torch.testing.assert_close(at(images()), network(images()))
        assert len(at.fingerprint()) == 64
        with pytest.raises(UserError, match="TorchScript module, which runs as a whole"):
            at.at("0")(images())


def test_wrapped_modules_are_unwrapped():
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Sequential(nn.ReLU(), nn.Conv2d(4, 2, 1)))
    plain = Representation(network, "1.1", **SMALL)
    wrapped = copy.deepcopy(network)
    wrapped[1] = torch.compile(wrapped[1])
    for each in (
        torch.compile(network),
        nn.DataParallel(network),
        torch.compile(nn.DataParallel(network)),
        wrapped,
    ):
        at = Representation(each, "1.1", **SMALL)
        torch.testing.assert_close(at(images()), plain(images()))
        assert at.fingerprint() == plain.fingerprint()
    assert Representation(wrapped, wrapped[1], **SMALL).layer == "1"
    assert Representation(wrapped, wrapped[1]._orig_mod[0], **SMALL).layer == "1.0"


@pytest.mark.parametrize(
    ("network", "words"),
    [
        (nn.Sequential(nn.LazyConv2d(4, 3)), "has lazy layers without weights; run it once"),
        (nn.Sequential(nn.Conv2d(3, 4, 3, device="meta")), "is on the meta device"),
        (nn.Conv2d, "Conv2d is a class; give a network of it"),
    ],
)
def test_networks_without_values(network, words):
    with pytest.raises(UserError, match=words):
        Representation(network, "0")


@dataclasses.dataclass
class Answer:
    hidden: torch.Tensor
    logits: torch.Tensor


def test_outputs_in_a_dataclass():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)

        def forward(self, x):
            return Answer(self.conv(x), self.conv(x).mean((2, 3)))

    assert Representation(Net(), "logits", **SMALL).shape == (4,)
    namespace = nn.Sequential(Step(lambda self, x: SimpleNamespace(x=x)))
    with pytest.raises(UserError, match="no tensor"):
        Representation(namespace, "0", **SMALL)(images())


def test_no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        at = Representation(STEADY["BatchNorm2d"](), "step", **SMALL)
        at.with_logits(images())
        Representation.layers(STEADY["BatchNorm2d"](), **SMALL)


@pytest.mark.parametrize(
    "name", ["resnet10t", "test_vit3", "test_efficientnet", "test_convnext", "test_byobnet"]
)
def test_small_networks_of_timm_are_functions_of_the_picture(name):
    """Channels-last in batches, and one by one as they are: the same to rounding."""
    at = Representation(name, "logits", "random", size=160 if name == "test_vit3" else 64)
    x = images(3, 64)
    together = at(x.contiguous(memory_format=torch.channels_last))
    alone = torch.cat([at(each[None]) for each in x])
    assert (together - alone).abs().max() <= 1e-4 * alone.abs().max()
