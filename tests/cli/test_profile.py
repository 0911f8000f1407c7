"""`profile` and `compare` of what was trained before: runs of `fit`, and shipped flows."""

import json
import shutil

import pytest

from invariances.cli.main import main
from invariances.flow.flow import ConditionalFlow
from invariances.interpreter import Interpreter
from invariances.recipes.profile_subjects import offered

FEW = ["--n", "2", "--limit", "3", "--device", "cpu"]


@pytest.fixture(autouse=True)
def short(monkeypatch):
    monkeypatch.setattr("invariances.training.attributes.STEPS", 20)


@pytest.fixture(scope="module")
def runs(words, tmp_path_factory, cache_home):
    """Two runs of one network, of layers in the alphabet's wrong order, and one of another seed."""
    folder = tmp_path_factory.mktemp("runs")
    patch = pytest.MonkeyPatch()
    patch.setenv("XDG_CACHE_HOME", str(cache_home))
    patch.setenv("INVARIANCES_OFFLINE", "1")
    for name, layer, more in (("b", "layer1", ()), ("a", "layer2", ()), ("c", "layer2", ("--run.seed=1",))):
        place = folder / ("other" if more else "one") / name
        assert main(words(f"--output={place}", *more, layer=layer)) == 0
    patch.undo()
    return folder


def test_runs_of_one_network_are_profiled_together(run, runs, tmp_path):
    status, out, err = run("profile", runs / "one", "--output", tmp_path / "p", *FEW)
    assert status == 0, err
    found = json.loads((tmp_path / "p" / "profile.json").read_text())
    assert found["layers_measured"] == ["layer1", "layer2"]
    for layer, numbers in found["layers"].items():
        assert layer in out
        assert numbers["information"] is not None
        assert numbers["variance_in_lpips"] is None
        assert "--lpips" in numbers["variance_in_lpips_reason"]
    one = run("profile", runs / "one" / "a", "--output", tmp_path / "a", *FEW)
    assert one[0] == 0, one[2]
    alone = json.loads((tmp_path / "a" / "profile.json").read_text())["layers"]["layer2"]
    assert alone["faithfulness_cosine"] == found["layers"]["layer2"]["faithfulness_cosine"]


def test_runs_compare_without_being_profiled_first(run, runs, tmp_path):
    status, _, err = run("compare", runs / "one" / "a", runs / "other" / "c", "--output", tmp_path / "c")
    assert status == 0, err
    found = json.loads((tmp_path / "c" / "comparison.json").read_text())
    assert list(found["layers"]) == ["layer2"]
    assert (tmp_path / "c" / "one" / "index.html").is_file()


def test_a_run_is_looked_at_as_the_profile_was_that_it_is_held_against(run, runs, tmp_path):
    assert run("profile", runs / "one" / "a", "--output", tmp_path / "p", *FEW, "--seed", "3")[0] == 0
    for pair in ((tmp_path / "p", runs / "other" / "c"), (runs / "other" / "c", tmp_path / "p")):
        status, _, err = run("compare", *pair, "--output", tmp_path / f"{pair[0].name}_first")
        assert status == 0, err


def test_other_pictures_leave_information_out_and_say_why(run, runs, photos, tmp_path):
    words = ["--images", photos, "--output", tmp_path / "p", *FEW]
    status, _, err = run("profile", runs / "other" / "c", *words)
    assert status == 0, err
    numbers = json.loads((tmp_path / "p" / "profile.json").read_text())["layers"]["layer2"]
    assert numbers["information"] is None
    assert "not those of the run" in numbers["information_reason"]


def test_labels_beside_the_pictures_become_attributes(run, words, photos, tmp_path):
    """An attribute that is nothing but noise is not read of the code, and said to be so; probes say how it is."""
    folder = tmp_path / "labelled"
    shutil.copytree(photos, folder)
    rows = [f"{k}.png,{'ab'[k % 2]},{(7 * k) % 23}.5" for k in range(24)]
    (folder / "labels.csv").write_text("\n".join(["picture,letter,number", *rows]))
    assert run(*words(f"--output={tmp_path / 'run'}", images=folder, **{"data.held_out": 8}))[0] == 0
    status, _, err = run("profile", tmp_path / "run", "--output", tmp_path / "p", *FEW)
    assert status == 0, err
    found = json.loads((tmp_path / "p" / "profile.json").read_text())
    assert set(found["readable"]) >= {"letter", "number"}
    numbers = found["layers"]["layer2"]
    assert numbers["factors"]["letter"] is None
    assert "cannot be read" in numbers["factors"]["letter_reason"]
    assert isinstance(numbers["probe"]["number"], float)
    assert "cannot be read" in (tmp_path / "p" / "index.html").read_text()


def test_runs_that_do_not_go_together_are_refused(run, runs, tmp_path):
    both = tmp_path / "both"
    both.mkdir()
    for name in ("one/a", "other/c"):
        (both / name[-1]).symlink_to(runs / name)
    assert "several of one layer" in run("profile", both, "--output", tmp_path / "p")[2]
    assert "are of layer1, layer2, not" in run("profile", runs / "one", "--layers", "fc")[2].replace(
        "layer2, layer1", "layer1, layer2"
    )
    assert "leave out --weights" in run("profile", runs / "one", "--autoencoder", "shapes_vae")[2]


def test_shipped_flows_are_taken_as_they_are(run, tmp_path, monkeypatch):
    monkeypatch.setattr("invariances.recipes.profile_subjects.KEPT_OUT", 4)
    monkeypatch.setattr("invariances.recipes.profile_subjects.PICTURES", 60)
    monkeypatch.setattr(
        "invariances.recipes.profile.untold_flow",
        lambda cut, code, data, fit: ConditionalFlow(fit.flow, (code.latent_dim,)).eval(),
    )

    status, _, err = run("profile", "shapes_shape", "--layers", "pool", "--output", tmp_path / "p", *FEW)
    assert status == 0, err
    found = json.loads((tmp_path / "p" / "profile.json").read_text())
    assert found["layers_measured"] == ["pool"]
    assert found["layers"]["pool"]["faithfulness_cosine"] > 0.5
    assert set(found["layers"]["pool"]["factors"]) >= {"shape", "texture", "x"}
    flow = Interpreter.load("shapes_shape", layer="pool").flow
    assert flow.latent_dim == 64


def test_a_folder_goes_on_with_the_same_profile_alone(run, runs, tmp_path):
    words = ["profile", runs / "one" / "a", "--output", tmp_path / "p", *FEW]
    assert run(*words)[0] == 0
    before = json.loads((tmp_path / "p" / "profile.json").read_text())
    assert run(*words)[0] == 0
    after = json.loads((tmp_path / "p" / "profile.json").read_text())
    assert before["layers"] == after["layers"]
    status, _, err = run(*words, "--seed", "1")
    assert status == 2
    assert "differs in seed; choose another --output" in err


def test_an_interpreter_goes_by_its_own_name_too(run):
    found = offered("photos64", ["conv5", "softmax"], None, drawn=False)
    assert [each.layer for each in found] == ["conv5", "softmax"]
    status, _, err = run("profile", "photos64")
    assert status == 2
    assert "give --images" in err


def test_all_that_a_profile_needs_and_is_not_here_is_named(run, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    words = ["--layers", "fc6", "--autoencoder", "bigae_animals", "--images", "AwA2Test"]
    status, _, err = run("profile", "alexnet", *words, "--output", tmp_path / "p")
    assert status == 2
    assert "alexnet, bigae_animals and AwA2Test are needed and not here" in err
    assert not (tmp_path / "p").exists()
