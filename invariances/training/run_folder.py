"""A run's folder: the names in it, and files that are either whole or absent."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import Any

from invariances.interpreter import CONFIG
from invariances.system.files import atomic

METRICS = "metrics.csv"


SAMPLES = "samples"


EVALUATION = "evaluation.json"


class Stopped(Exception):
    """Training was asked to stop by a signal, and saved itself.

    Attributes:
        checkpoint: The file to go on from; None where the run keeps no folder.
        step: Steps done.
        signum: The signal.
    """

    def __init__(self, checkpoint: Path | None, step: int, signum: int) -> None:
        kept = f"; kept in {checkpoint}" if checkpoint else ""
        super().__init__(f"stopped after step {step}{kept}")
        self.checkpoint, self.step, self.signum = checkpoint, step, signum


def write_config(folder: str | os.PathLike[str], config: dict[str, Any]) -> None:
    """A run's config.yaml, ready for `invariances fit -c`; names that only Python knew are null."""
    import yaml

    path = Path(folder) / CONFIG
    header = f"# Train again: invariances fit -c {shlex.quote(str(path))} --output ANOTHER_FOLDER\n"
    if None in (config["model"]["network"], config["model"]["autoencoder"], config["data"]["images"]):
        header += (
            "# Trained in Python: what is null was given as an object; name it, or a file, to train again.\n"
        )
    with atomic(path) as draft:
        draft.write_text(header + yaml.safe_dump(config, sort_keys=False))
