"""Every YAML of configs/ is parsed, says how it is used, and runs for one step on tiny stand-ins."""

import csv
import json
import shutil
import zlib
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from torch import nn

from invariances import zoo
from invariances.autoencoder.dequantiser import Dequantiser
from invariances.autoencoder.storage import save_autoencoder
from invariances.autoencoder.vae import VAE
from invariances.cli.fit import fit_parser
from invariances.cli.main import main
from invariances.data.images import to_uint8
from invariances.data.published.catalogue import SETS
from invariances.data.published.samples import TestSamples, TrainSamples
from invariances.data.shapes import Shapes
from invariances.flow.config import EmbedderConfig, FlowConfig
from invariances.flow.flow import ConditionalFlow
from invariances.representation.representation import Representation
from invariances.training import data as training_data
from invariances.training.config import PRESETS, instantiated
from invariances.training.run_folder import read_config, typed
from invariances.zoo import loading

CONFIGS = Path(__file__).parents[1] / "configs"
FILES = sorted(str(path.relative_to(CONFIGS)) for path in CONFIGS.rglob("*.yaml"))
OWN = [name for name in FILES if "/" not in name or name.startswith("presets/")]
OWN.remove("project.yaml")
RESNET = ("input", "maxpool", "layer1", "layer2", "layer3", "layer4", "avgpool", "fc", "softmax")
ALEXNET = ("conv5", "fc6", "fc7", "fc8", "softmax")
FACES = "resnet/animalfaces"
BASES = ("base", "base_restricted", "base_restricted10")
TRAINED = [
    *((f"{FACES}/{base}.yaml", f"{FACES}/train/{layer}.yaml") for base in BASES for layer in RESNET),
    *(("alexnet/base_train.yaml", f"alexnet/train/{layer}.yaml") for layer in ALEXNET),
    ("texturebias/resnet50.yaml",),
    ("texturebias/stylized.yaml",),
]
LIKE_OTHERS = [
    each
    for each in TRAINED
    if "input" in each[-1] or ("base_restricted" in each[0] and "layer4" not in each[1])
]
SMALL = ["--flow.blocks", "1", "--flow.width", "8", "--batch_size", "4", "--steps", "1", "--device", "cpu"]


def parsed(*names, more=()):
    parser = fit_parser("A sentence.\n\nExample:\n    x", None)
    words = [word for name in names for word in ("-c", str(CONFIGS / name))]
    return instantiated(parser, parser.parse_args([*words, *more]))


def test_every_file_is_tested():
    used = {name for names in TRAINED for name in names}
    evaluated = {f"alexnet/eval/{layer}.yaml" for layer in ALEXNET}
    assert set(FILES) == {*OWN, *used, *evaluated, "alexnet/base_eval.yaml", "project.yaml"}
    for name in FILES:
        first, second, *_ = (CONFIGS / name).read_text(encoding="utf-8").splitlines()
        assert first.startswith("# invariances ")
        assert f"-c configs/{name}" in first
        assert second.startswith("# ")


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    (folder / "photos").mkdir()
    for index, image in enumerate(to_uint8(Shapes(24).images(range(24))).numpy()):
        Image.fromarray(image).save(folder / "photos" / f"{index}.png")
    torch.manual_seed(0)
    save_autoencoder(VAE(32, latent_dim=4, width=4, max_width=4, blocks=0), folder / "vae.safetensors")
    return folder


@pytest.mark.parametrize("name", OWN)
def test_each_config_of_ours_runs_for_one_step(name, small, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    given = typed(yaml.safe_load((CONFIGS / name).read_text(encoding="utf-8")), name)
    maps = given.flow.transform == "maps"
    code = "photos64_ae" if maps else str(small / "vae.safetensors")
    words = [
        "--network",
        "shapes_shape",
        "--size",
        "32",
        "--autoencoder",
        code,
        "--images",
        str(small / "photos"),
    ]
    words += ["--layers", "stage4", "pool"] if maps else ["--layer", "stage4"]
    words += [*SMALL, "--flow.embedder.width", "2", "--output", str(tmp_path / "run"), "--steps", "2"]
    assert main(["fit", "-c", str(CONFIGS / name), *words]) == 0
    found = read_config(tmp_path / "run")
    assert found.learning == replace(given.learning, steps=2, batch_size=4)
    assert found.flow.transform == given.flow.transform


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_files_too(name):
    flow, learning = PRESETS[name]()
    values = yaml.safe_load((CONFIGS / "presets" / f"{name}.yaml").read_text(encoding="utf-8"))
    assert values == {"flow": asdict(flow), "learning": asdict(learning)}


class Stem(nn.Sequential):
    """Layers with the names of a ResNet or an AlexNet, and next to no channels."""

    def __init__(self, kind, classes):
        if kind == "alexnet":
            features = [nn.Conv2d(3, 2, 3, 4) if k == 0 else nn.Identity() for k in range(11)]
            features += [nn.Conv2d(2, 2, 1), nn.Identity()]
            linear = {1: nn.Linear(2 * 6 * 6, 4), 4: nn.Linear(4, 4), 6: nn.Linear(4, classes)}
            places = [linear.get(k, nn.ReLU() if k in (2, 5) else nn.Identity()) for k in range(7)]
            parts = {
                "features": nn.Sequential(*features),
                "avgpool": nn.AdaptiveAvgPool2d(6),
                "flat": nn.Flatten(),
                "classifier": nn.Sequential(*places),
            }
        else:
            parts = {"conv1": nn.Conv2d(3, 2, 7, 2, 3), "maxpool": nn.MaxPool2d(2)}
            parts |= {f"layer{k}": nn.Conv2d(2, 2, 3, 1 if k == 1 else 2, 1) for k in range(1, 5)}
            parts |= {"avgpool": nn.AdaptiveAvgPool2d(1), "flat": nn.Flatten(), "fc": nn.Linear(2, classes)}
        super().__init__()
        for name, part in parts.items():
            self.add_module(name, part)


class Generator(nn.Module):
    """Pictures out of (z, class embedding), as BigGAN's."""

    code_dim, latent_dim, image_size = 140, 268, 32

    def __init__(self):
        super().__init__()
        self.classes, self.colour = nn.Embedding(1000, 128), nn.Linear(268, 3)

    def embed(self, index):
        return self.classes(index)

    def decode(self, z, class_index=None):
        if class_index is not None:
            z = torch.cat([z, self.embed(class_index)], dim=1)
        return self.colour(z).tanh()[:, :, None, None].expand(-1, -1, 32, 32)

    def fingerprint(self):
        return "tiny generator"


def stand_in(name, progress=True):
    """A tiny network of a published name."""
    found = zoo.entry(name)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        if found["kind"] == "classifier":
            module = Stem(found["architecture"]["name"], found["architecture"]["classes"])
            loading._describe(module, {**found, "preprocessing": {**found["preprocessing"], "size": 12}})
        elif found["kind"] == "autoencoder" and name != "dequant_vae":
            module = VAE(32, latent_dim=128, width=4, max_width=4, blocks=0)
        elif name == "dequant_vae":
            module = Dequantiser(128, 128, width=8)
        elif found["kind"] == "generator":
            module = Generator()
        else:
            shape = Representation(found["network"], found["layer"]).shape
            depth = EmbedderConfig(depth=found["architecture"]["embedder_depth"])
            module = ConditionalFlow(FlowConfig(blocks=1, width=8, embedder=depth), (128,), shape)
            for each in module.modules():
                if hasattr(each, "initialized"):
                    each.initialized.fill_(1)
    return module.requires_grad_(False).eval()


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A cache's home with tiny data sets in the published layout."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(home))
        from invariances.data.published.imagenet import carnivores

        synsets = list(carnivores())[:2]
        for kind in SETS.values():
            root = kind.root_of()
            names = [f"{s}/{s}_{kind.name}_{k}.JPEG" for s in synsets for k in range(5)]
            for name in names:
                path = root.path / kind.inside / name
                path.parent.mkdir(parents=True, exist_ok=True)
                low = np.random.default_rng(zlib.crc32(name.encode())).integers(
                    0, 256, (6, 8, 3), dtype=np.uint8
                )
                Image.fromarray(low).resize((150, 130)).save(path, "JPEG")
            (root.path / kind.list_file).write_text("".join(f"{name}\n" for name in sorted(names)))
            root.mark([kind.list_file])
    return home


@pytest.fixture
def stand_ins(published, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(published))
    monkeypatch.setenv("TORCH_HOME", str(published))
    monkeypatch.setenv("INVARIANCES_OFFLINE", "1")
    for place in (zoo, loading, training_data):
        monkeypatch.setattr(place, "load", stand_in)
    for kind in (TrainSamples, TestSamples):
        monkeypatch.setattr(kind.__init__, "__defaults__", (6, *kind.__init__.__defaults__[1:]))


def numbers_of(folder):
    with (folder / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize(
    "names",
    [pytest.param(each, marks=[pytest.mark.slow] if each in LIKE_OTHERS else []) for each in TRAINED],
    ids=["+".join(names) for names in TRAINED],
)
def test_each_published_run_does_one_step_on_stand_ins(names, stand_ins, tmp_path, capsys):
    whole = parsed(*names)
    words = [word for name in names for word in ("-c", str(CONFIGS / name))]
    output = tmp_path / "run"
    status = main(["fit", *words, *SMALL, "--output", str(output)])
    assert status == 0, capsys.readouterr().err
    (row,) = numbers_of(output)
    assert float(row["learning_rate"]) == pytest.approx(4.5e-6 * 4)
    assert np.isfinite(float(row["nll"]))
    assert np.isfinite(float(row["held_out_nll"]))
    assert (output / "checkpoints" / "step_0000001.ckpt").exists()
    found = read_config(output)
    assert (found.network, found.layer, found.autoencoder) == (whole.network, whole.layer, whole.autoencoder)
    assert found.data == whole.data
    if "texturebias" not in names[0]:
        told = json.loads((output / "evaluations" / "step_0000001.json").read_text())
        assert (told["pictures"], told["samples_per_picture"]) == (10, 3)


SHARED, TEN = "resnet101_animalfaces_shared", "resnet101_animalfaces_10"
PUBLISHED = {
    "base": (
        "resnet101_animalfaces_shared",
        "AnimalFacesSharedTrain",
        "AnimalFacesSharedTest",
        250_000,
        10_000,
    ),
    "base_restricted": (
        "resnet101_animalfaces_shared",
        "AnimalFacesRestrictedTrain",
        "AnimalFacesRestrictedTest",
        50_000,
        1000,
    ),
    "base_restricted10": (
        "resnet101_animalfaces_10",
        "AnimalFacesRestrictedTrain",
        "AnimalFacesRestrictedTest",
        50_000,
        1000,
    ),
}


@pytest.mark.parametrize("names", TRAINED, ids=["+".join(names) for names in TRAINED])
def test_hyper_parameters_are_the_published_ones(names):
    found = parsed(*names)
    learning = found.learning
    assert learning.rate() == pytest.approx(7.2e-5)
    assert (learning.optimizer, learning.schedule, learning.warmup, learning.ema) == (
        "adam",
        "constant",
        0,
        0,
    )
    assert (learning.weight_decay, learning.batch_size, learning.keep) == (0, 16, "last")
    flow = found.flow
    assert (flow.transform, flow.blocks, flow.width, flow.depth) == ("couplings", 20, 1024, 2)
    depth = 6 if names[-1].endswith(f"{FACES}/train/avgpool.yaml") else 4
    assert (flow.embedder.kind, flow.embedder.depth) == ("published", depth)
    assert found.run.log_every == 1000
    kind = Path(names[0]).stem
    if kind in PUBLISHED:
        data = found.data
        assert PUBLISHED[kind] == (
            found.network,
            data.images,
            data.held_out,
            learning.steps,
            found.run.checkpoint_every,
        )
        assert (found.autoencoder, found.run.evaluate_every) == ("bigae_animalfaces", 1)
    if kind == "base_train":
        assert (found.network, found.autoencoder, learning.steps) == ("alexnet", "bigae_animals", 250_000)


def test_flows_of_the_ten_kinds_have_the_published_shapes():
    for layer in RESNET:
        found = parsed(f"{FACES}/base_restricted10.yaml", f"{FACES}/train/{layer}.yaml")
        theirs = zoo.entry(f"cinn_resnet_animalfaces10_ae_{layer}")
        assert (theirs["network"], theirs["autoencoder"]) == (found.network, found.autoencoder)
        assert theirs["architecture"]["embedder_depth"] == found.flow.embedder.depth


def test_later_files_override_earlier_ones_key_by_key(tmp_path):
    (tmp_path / "a.yaml").write_text(
        "learning: {learning_rate: 0.001, ema: 0.9}\nflow: {embedder: {depth: 6, width: 3}, width: 12}\n"
        "data: {held_out: 5, skip_broken: true}\nrun: {progress: false, resume: true, wandb: x}\ntoken: class\n"
    )
    (tmp_path / "b.yaml").write_text(
        "learning: {learning_rate: null}\nflow: {embedder: {depth: 3}}\ndata: {held_out: AnimalFacesSharedTest}\n"
        "run: {resume: false, wandb: null}\ntoken: null\n"
    )
    found = parsed(tmp_path / "a.yaml", tmp_path / "b.yaml")
    assert (found.learning.learning_rate, found.learning.ema) == (None, 0.9)
    assert (found.flow.embedder, found.flow.width) == (EmbedderConfig(depth=3, width=3), 12)
    assert (found.data.held_out, found.data.skip_broken) == ("AnimalFacesSharedTest", True)
    assert (found.run.resume, found.run.progress, found.run.wandb, found.token) == (False, False, None, None)
    again = parsed(tmp_path / "b.yaml", tmp_path / "a.yaml", more=["--flow.width", "7"])
    assert (again.learning.learning_rate, again.flow.embedder.depth, again.flow.width) == (0.001, 6, 7)


def test_the_project_comes_on_top():
    names = (f"{FACES}/base.yaml", f"{FACES}/train/layer4.yaml")
    found = parsed(*names, "project.yaml")
    assert found == replace(parsed(*names), run=replace(parsed(*names).run, wandb="invariances"))


@pytest.mark.parametrize("layer", ALEXNET)
def test_published_flows_are_evaluated_on_a_folder(layer, stand_ins, small, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(small / "photos", tmp_path / "data" / "custom")
    words = ["-c", str(CONFIGS / "alexnet/base_eval.yaml"), "-c", str(CONFIGS / f"alexnet/eval/{layer}.yaml")]
    status = main(["evaluate", *words, "--limit", "4", "--device", "cpu"])
    out, err = capsys.readouterr()
    assert status == 0, err
    found = json.loads(out)
    assert (found["network"], found["layer"], found["pictures"]) == ("alexnet", layer, 24)
    assert (found["samples_per_picture"], found["fid"]) == (3, None)
    assert (tmp_path / "evaluations" / f"cinn_alexnet_aae_{layer}_{layer}" / "evaluation.html").exists()
