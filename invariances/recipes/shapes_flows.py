"""`shapes_shape_flows` and `shapes_texture_flows`: what the demos sample from, four layers of each network."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from invariances.data.shapes import Shapes
from invariances.flow.config import FlowConfig
from invariances.interpreter import Interpreter
from invariances.system.errors import UserError
from invariances.training.config import DataConfig, LearningConfig, Precision, RunConfig
from invariances.training.fit import fit
from invariances.zoo.interpreters import layers_in, save_flows
from invariances.zoo.runs import LAST, WEIGHTS

NETWORKS = ("shapes_shape", "shapes_texture")
LAYERS = ("stage2", "stage3", "pool", "logits")
AUTOENCODER = "shapes_vae"

PICTURES, HELD_OUT, STEPS = 18_000, 1_000, 800
TRAIN_SEED, TEST_SEED = 41, 42


def build_flows(
    output: str | Path, precision: Precision = "bf16-mixed", shortened: float = 1.0
) -> list[Path]:
    """Trains a flow for each layer of both networks and writes `NETWORK_flows.safetensors` (float16) to `output`.

    A stopped run goes on, and networks whose file is there already are left alone.

    Args:
        output: Folder to write to; the runs lie below it.
        precision: Lightning's.
        shortened: Share of the steps and pictures, to try the recipe out.
    """
    folder, written = Path(output), []
    for network in NETWORKS:
        path = folder / f"{network}_flows.safetensors"
        if not path.exists():
            found = {layer: fitted(network, layer, folder, precision, shortened) for layer in LAYERS}
            save_flows(path, {layer: (each.flow, _notes(each)) for layer, each in found.items()})
        if set(layers_in(path)) != set(LAYERS):
            raise UserError(f"{path} holds other layers than {', '.join(LAYERS)}; delete it to make it anew")
        written.append(path)
    return written


def fitted(network: str, layer: str, folder: Path, precision: Precision, shortened: float) -> Interpreter:
    """The interpreter of one layer: the run that is there, gone on with where it stopped."""
    place = folder / "runs" / f"{network}_{layer}"
    if (place / WEIGHTS).exists():
        return Interpreter.load(place)
    steps = max(2, round(STEPS * shortened))
    learning = replace(LearningConfig.minutes(), steps=steps)
    resume = (place / LAST).exists()
    return fit(
        _made_here(folder, network),
        layer,
        _made_here(folder, AUTOENCODER),
        Shapes(max(512, round(PICTURES * shortened)), seed=TRAIN_SEED),
        held_out=Shapes(max(64, round(HELD_OUT * shortened)), seed=TEST_SEED),
        flow=FlowConfig.minutes(),
        data=DataConfig(held_out=None),
        learning=learning,
        run=RunConfig(str(place), resume=resume, precision=precision, samples_every=0),
    )


def _made_here(folder: Path, name: str) -> str:
    """The model that was made in this folder, or else the shipped one."""
    path = folder / f"{name}.safetensors"
    return str(path) if path.exists() else name


def _notes(interpreter: Interpreter) -> dict[str, Any]:
    return {
        "network_fingerprint": interpreter.representation.fingerprint(),
        "autoencoder_fingerprint": interpreter.autoencoder.fingerprint(),  # type: ignore[operator]
    }
