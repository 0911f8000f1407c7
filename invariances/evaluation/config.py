"""What an evaluation is told: the same in Python, YAML and on the command line."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Evaluation:
    """What to evaluate, and how.

    Args:
        checkpoint: Of the run, in place of its result - a file, a step of its series, best or last.
        images: A folder, or a data set's name, to evaluate on instead of the pictures kept out.
        layer: Which of the layers of a name, or of a run of several; may be left out where there is but one.
        network: The network's name or weights file, where that has moved since training.
        n: Samples per picture; each of the first three gives an FID.
        temperature: Of the samples; 1 is the truth, lower shows less variety. Likelihood and variance are of 1.
        fid: Feature space of the FID - auto, inception, NETWORK:LAYER or none.
        unconditional: Also train a flow of the same size that is told nothing, and give its bits.
        limit: At most so many pictures for samples and FID.
        seed: Of the samples.
        device: auto, cpu, cuda or mps.
        progress: Bars on stderr.
    """

    checkpoint: str | None = None
    images: str | None = None
    layer: str | None = None
    network: str | None = None
    n: int = 8
    temperature: float = 1.0
    fid: str = "auto"
    unconditional: bool = False
    limit: int | None = None
    seed: int = 0
    device: str = "auto"
    progress: bool = True
