"""All numbers of one interpreter on pictures kept out."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch.utils.data import Dataset

from invariances.data.datasets import fingerprint, hash_of
from invariances.data.splitting import limited
from invariances.evaluation.bootstrap import number
from invariances.evaluation.classes import classes_of
from invariances.evaluation.faithfulness import Faithfulness
from invariances.evaluation.fid import FID, feature_space
from invariances.evaluation.invariance import variance
from invariances.evaluation.likelihood import in_bits, log_probs
from invariances.evaluation.looking import Accumulator, Sampling, look
from invariances.features.stream import Features
from invariances.interpreter import Interpreter
from invariances.system.files import atomic


def evaluate(
    interpreter: Interpreter,
    pictures: Dataset[Any],
    features: Features,
    *,
    sampling: Sampling = Sampling(),
    fid: str = "auto",
    limit: int | None = None,
    more: Sequence[Accumulator] = (),
    progress: bool = False,
) -> dict[str, Any]:
    """The numbers of one interpreter on pictures kept out; means over pictures with 95 % intervals.

    Args:
        interpreter: Network, autoencoder and flow.
        pictures: A data set.
        features: Of all of them; likelihood and variance need the flow alone.
        sampling: How samples are drawn.
        fid: Feature space, see `feature_space`; "none" leaves it out.
        limit: At most so many pictures, evenly spread over the set, for what needs samples to be seen.
        more: Further things to measure in the same pass.
        progress: A bar on stderr.
    """
    seed = sampling.seed
    shown = pictures if limit is None else limited(pictures, limit)
    count = len(shown)  # type: ignore[arg-type]
    result: dict[str, Any] = {
        "pictures": features.n,
        "pictures_sampled": count,
        "samples_per_picture": sampling.n,
        "temperature": sampling.temperature,
        "seed": seed,
    }
    space = None if fid == "none" else feature_space(fid, interpreter.representation)
    bits = in_bits(log_probs(interpreter.flow, features, seed), interpreter.flow.latent_dim)
    result |= number("nll_bits_per_dim", bits, seed=seed)
    result["unconditional_nll_bits_per_dim"] = None
    result |= variance(interpreter.flow, features, seed=seed)
    classes = classes_of(interpreter.representation)
    measures: list[Accumulator] = [Faithfulness(count, sampling.n, classes, seed=seed), *more]
    if space is not None:
        key = hash_of([fingerprint(shown, progress=progress), interpreter.image_size])
        measures.append(FID(space, interpreter.device, key))
    found = look(interpreter, shown, measures, sampling, progress=progress)
    return result | {"fid": None} | found


@dataclass(frozen=True)
class Line:
    """One number for people.

    Attributes:
        name: with the groups that it belongs to, dotted.
        value: None where it cannot be had.
        interval: [low, high] that hold it in 95 of 100 repetitions.
        reason: why it cannot be had, or its interval.
    """

    name: str
    value: Any
    interval: list[float] | None = None
    reason: str = ""

    def text(self) -> str:
        """The value as people read it."""
        if self.value is None:
            return f"none: {self.reason}" if self.reason else ""
        shown = f"{self.value:.4f}" if isinstance(self.value, float) else str(self.value)
        if self.interval is not None and None not in self.interval:
            shown += f"  [{self.interval[0]:.4f}, {self.interval[1]:.4f}]"
        return shown


def lines(result: Mapping[str, Any]) -> list[Line]:
    """The numbers of a result in order, each with its interval or reason; those with neither are left out."""
    return [each for each in _lines(finite(dict(result))) if each.value is not None or each.reason]


def _lines(result: Mapping[str, Any]) -> Iterator[Line]:
    for key, value in result.items():
        if _beside(key, result):
            continue
        if isinstance(value, Mapping):
            intervals = result.get(f"{key}_interval") or {}
            inner = {**value, **{f"{name}_interval": each for name, each in intervals.items()}}
            yield from (replace(each, name=f"{key}.{each.name}") for each in _lines(inner))
        else:
            reason = result.get(f"{key}_reason") or result.get(f"{key}_interval_reason") or ""
            yield Line(key, value, result.get(f"{key}_interval"), reason)


def _beside(key: str, result: Mapping[str, Any]) -> bool:
    """Whether a key tells of another one."""
    endings = ("_interval_reason", "_interval", "_reason")
    return any(key.endswith(each) and key.removesuffix(each) in result for each in endings)


def finite(value: Any) -> Any:
    """`value` with None for NaN and infinities, which JSON does not have."""
    if isinstance(value, dict):
        return {key: finite(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_numbers(path: Path, result: Mapping[str, Any]) -> None:
    """Writes them as JSON, whole or not at all; what is not finite is null."""
    with atomic(path) as draft:
        draft.write_text(json.dumps(finite(result), indent=2) + "\n", encoding="utf-8")
