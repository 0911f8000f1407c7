"""`metrics.csv`, as a logger of Lightning's."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

from invariances.system.files import atomic


class MetricsFile(Logger):
    """One row per report, blank where a metric was not measured.

    A resumed run drops the rows of steps that it will do again, so the file reads as if nothing had happened.

    Args:
        path: The file.
        columns: Names after `step` and `epoch`.
    """

    def __init__(self, path: Path, columns: Sequence[str]) -> None:
        super().__init__()
        self.path, self.columns = path, ("step", "epoch", *columns)

    @property
    def name(self) -> str:
        """The file's name."""
        return self.path.name

    @property
    def version(self) -> str:
        """None is kept."""
        return ""

    @property
    def save_dir(self) -> str:
        """The run's folder."""
        return str(self.path.parent)

    @rank_zero_only
    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Settings are in config.yaml."""

    @rank_zero_only
    def start(self, step: int) -> None:
        """Keep the rows up to `step`, and only whole ones."""
        rows = []
        if step and self.path.exists():
            with self.path.open(newline="", encoding="utf-8", errors="replace") as file:
                rows = [row for row in csv.reader(file) if len(row) == len(self.columns)][1:]
            rows = [row for row in rows if row[0].isdecimal() and int(row[0]) <= step]
        with atomic(self.path) as draft, draft.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([self.columns, *rows])

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Append a row."""
        values: dict[str, Any] = {"step": step, **metrics, "epoch": int(metrics.get("epoch", 0))}
        line = io.StringIO()
        csv.writer(line).writerow([values.get(column, "") for column in self.columns])
        with self.path.open("a", newline="", encoding="utf-8") as file:
            file.write(line.getvalue())
