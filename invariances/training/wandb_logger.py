"""Weights & Biases, with a run id that survives a resume."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger

from invariances.system.errors import UserError
from invariances.system.extras import installed

_MOST_WAITING = 300
"""Seconds that the end of a run waits for a server that is gone; what was not sent stays in the run's folder."""


def check_wandb() -> None:
    """Refuses to begin where wandb is missing, which nothing else would notice before all features are cached.

    Raises:
        UserError: wandb is not installed.
    """
    if not installed("wandb"):
        raise UserError(
            "run.wandb needs the package wandb; pip install 'invariances[wandb]', or leave it out"
        )


def wandb_logger(project: str, folder: Path | None, settings: Mapping[str, Any]) -> Logger:
    """Logs to `project`; the run's id is a function of its folder, so that a resumed run goes on in the same charts.

    Args:
        project: Of Weights & Biases.
        folder: Of the run; its name is the run's.
        settings: All of the run's, kept with it.

    Raises:
        UserError: wandb is not installed, knows no key, or reaches no server.
    """
    check_wandb()
    from lightning.pytorch.loggers import WandbLogger

    place = None if folder is None else str(folder.resolve())
    name = None if folder is None else folder.name
    identity = None if place is None else hashlib.sha256(place.encode()).hexdigest()[:16]
    logger = WandbLogger(name=name, id=identity, project=project, save_dir=str(folder or "."), resume="allow")
    from wandb.errors import Error

    os.environ.setdefault("WANDB_FINISH_TIMEOUT", str(_MOST_WAITING))
    try:
        logger.log_hyperparams(dict(settings))  # this connects
    except Error as error:
        raise UserError(
            f"Weights & Biases cannot be used ({' '.join(str(error).split())}); mend that, or set WANDB_MODE=offline "
            "and send the run with `wandb sync` later"
        ) from error
    return logger
