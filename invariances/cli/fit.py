"""`invariances fit`: the flow between an autoencoder's code and a layer, and a folder that explains itself."""

from __future__ import annotations

import sys
from typing import Any

SHORT = {
    "--images": "data.images",
    "--held_out": "data.held_out",
    "--steps": "learning.steps",
    "--batch_size": "learning.batch_size",
    "--name": "run.name",
    "--output": "run.output",
    "--debug_run": "run.debug_run",
    "--resume": "run.resume",
    "--seed": "run.seed",
    "--device": "run.device",
}


def fit(argv: list[str]) -> int:
    """Train the flow between an autoencoder's code and what a layer knows.

    Every option can stand in YAML files (-c, several, the last wins, key by key) and on the command line. --preset
    sets all options of flow and learning at once: `published` (the paper's, the default), `minutes`, `hours`; other
    options come on top of it. The run's folder keeps the complete config.yaml, the trained interpreter, which pictures
    were trained on and which were kept out, metrics.csv, TensorBoard's events, sample grids and the last checkpoint.
    Ctrl-C and SIGTERM save before they stop, and say how to go on.

    Example:
        invariances fit --network resnet50 --layer layer4 --autoencoder vae.safetensors --images photos/
        invariances fit -c configs/animals_layer.yaml --preset minutes --output runs/short
        invariances fit -c runs/resnet50_layer4/config.yaml --resume
    """
    from invariances.cli.parsing import check_configs, explained, words_of
    from invariances.training.config import PRESETS, instantiated

    parser = fit_parser(fit.__doc__ or "", _preset(argv, list(PRESETS)))
    check_configs(argv)
    with explained(parser):
        parsed = parser.parse_args(words_of(parser, argv))
        config = instantiated(parser, parsed)

    from invariances.training.fit import fit_config
    from invariances.training.stopping import Stopped
    from invariances.zoo.runs import resume_command

    try:
        fit_config(config)
    except KeyboardInterrupt as interrupt:
        stop = interrupt.__cause__
        if not isinstance(stop, Stopped):
            raise
        folder = stop.checkpoint.parent.parent if stop.checkpoint else None
        command = f"; go on with:\n{resume_command(folder)}" if folder else ""
        after = "" if stop.step is None else f" after step {stop.step}"
        print(f"stopped{after}{command}", file=sys.stderr)
        return 128 + stop.signum
    return 0


def fit_parser(doc: str, preset: str | None) -> Any:
    """The parser of `FitConfig`, with `preset` as its defaults."""
    from dataclasses import asdict

    from invariances.cli.parsing import options_parser, with_flags, with_short_words
    from invariances.training.config import PRESETS, FitConfig

    words = "[-c FILE.yaml ...] [--preset NAME] [--network NAME --layer NAME ...]"
    parser = options_parser(FitConfig, doc, "fit", words)
    parser.add_argument(
        "--preset",
        choices=list(PRESETS),
        default=None,
        help="Of flow and learning: published, minutes or hours.",
    )
    if preset is not None:
        flow, learning = PRESETS[preset]()
        parser.set_defaults(_flat({"flow": asdict(flow), "learning": asdict(learning)}))
    return with_short_words(with_flags(parser), SHORT)


def _preset(argv: list[str], known: list[str]) -> str | None:
    """The preset that the words name; it must be known before they are parsed, since it is their defaults."""
    for word, after in zip(argv, [*argv[1:], ""]):
        if word == "--preset" and after in known:
            return after
        if word.startswith("--preset=") and word.removeprefix("--preset=") in known:
            return word.removeprefix("--preset=")
    return None


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return found
