"""`invariances fit`: LightningCLI over the flow's training, and a run's folder around it."""

from __future__ import annotations

import signal
import sys

SHORT = {
    "--network": "--model.network",
    "--layer": "--model.layer",
    "--weights": "--model.weights",
    "--autoencoder": "--model.autoencoder",
    "--images": "--data.images",
    "--steps": "--trainer.max_steps",
}


def fit(argv: list[str]) -> int:
    """Train the flow between an autoencoder's code and what a layer knows.

    Every option can stand in YAML files (-c, several, the last wins) and on the command line. The run's folder
    keeps the complete config.yaml, the trained interpreter, metrics.csv, TensorBoard's events, sample grids and
    the last checkpoint. Ctrl-C and SIGTERM save before they stop, and say how to go on.

    Short for the longer names below: --network, --layer, --weights, --autoencoder, --images, --steps.

    Example:
        invariances fit --network resnet50 --layer layer4 --autoencoder vae.safetensors --images photos/
        invariances fit -c runs/resnet50_layer4/config.yaml --output runs/longer --steps 100000
    """
    from invariances.cli.fit_cli import train
    from invariances.interpreter import resume_command
    from invariances.training.run_folder import Stopped

    words = [_long(word) for word in argv]
    try:
        train(words, fit.__doc__ or "")
    except Stopped as stop:
        folder = stop.checkpoint.parent.parent if stop.checkpoint else None
        command = f"; go on with:\n{resume_command(folder)}" if folder else ""
        print(f"stopped after step {stop.step}{command}", file=sys.stderr)
        return 128 + (stop.signum or signal.SIGTERM)
    return 0


def _long(word: str) -> str:
    name, equals, value = word.partition("=")
    return SHORT.get(name, name) + equals + value
