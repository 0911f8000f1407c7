"""Signals at any moment: 130 or 143, a line that says so, and a command that goes on."""

import shlex
import signal

import pytest

from invariances.cli.main import main
from invariances.features.networks import FrozenParts
from invariances.training.autoencoder import AutoencoderTask
from invariances.training.stages import FlowStage, Regression

STATUS = {signal.SIGINT: 130, signal.SIGTERM: 143}
CTRL_C, TERM, TWICE = (signal.SIGINT,), (signal.SIGTERM,), (signal.SIGINT, signal.SIGINT)


def interrupting(monkeypatch, home, name, signals, call=2):
    """The signals come while `home.name` is called for the `call`-th time."""
    real, calls = getattr(home, name), []

    def method(*args, **options):
        calls.append(1)
        if len(calls) == call:
            for each in signals:
                signal.raise_signal(each)
        return real(*args, **options)

    monkeypatch.setattr(home, name, method)


def goes_on(run, status, err, signals):
    """The status is the signal's, nothing was a fault, and the last line is a command that ends well."""
    assert status == STATUS[signals[-1]], err
    assert "Traceback" not in err
    assert "fault of ours" not in err
    command = shlex.split(err.strip().splitlines()[-1])
    assert command[0] == "invariances"
    assert "stopped" in err
    status, _, err = run(*command[1:])
    assert status == 0, err
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    assert signal.getsignal(signal.SIGINT) == signal.default_int_handler


WINDOWS = {
    "caching": (FrozenParts, "features", 1),
    "in a step": (FlowStage, "training_step", 3),
    "before the first step": (FlowStage, "configure_optimizers", 1),
}


@pytest.mark.parametrize("signals", [CTRL_C, TERM, TWICE], ids=["ctrl-c", "term", "twice"])
@pytest.mark.parametrize("window", WINDOWS)
def test_fit(run, words, tmp_path, monkeypatch, window, signals):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    home, name, call = WINDOWS[window]
    with monkeypatch.context() as patch:
        interrupting(patch, home, name, signals, call)
        status, _, err = run(*words(f"--output={tmp_path / 'a run'}"))
    goes_on(run, status, err, signals)


def test_fit_while_its_embedder_is_taught(run, words, tmp_path, monkeypatch):
    more = ["--flow.embedder.kind=regression", "--flow.embedder.width=2", "--learning.regression=0.5"]
    with monkeypatch.context() as patch:
        interrupting(patch, Regression, "training_step", TERM)
        status, _, err = run(*words(f"--output={tmp_path / 'run'}", *more))
    goes_on(run, status, err, TERM)


@pytest.mark.parametrize(
    ("name", "signals"), [("training_step", TWICE), ("configure_optimizers", TERM)], ids=["twice", "term"]
)
def test_fit_autoencoder(run, photos, tmp_path, monkeypatch, name, signals):
    small = ["--size=32", "--width=4", "--max_width=8", "--latent_dim=4", "--steps=3", "--batch_size=4"]
    with monkeypatch.context() as patch:
        interrupting(patch, AutoencoderTask, name, signals, 1)
        status, _, err = run("fit-autoencoder", photos, "--output", tmp_path / "ae", *small)
    goes_on(run, status, err, signals)


def test_any_other_command(monkeypatch, capsys):
    def interrupted(argv: list[str]) -> None:
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr("invariances.cli.main._function", lambda home: interrupted)
    assert main(["fit", "two words"]) == 143
    assert capsys.readouterr().err.splitlines()[-1] == "invariances fit 'two words'"
