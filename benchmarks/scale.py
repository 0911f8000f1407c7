"""Does a picture cost the same whatever the size of the cache? Prints times, memory and ratios as JSON.

    python benchmarks/scale.py [--sizes 1000 100000 1000000] [--steps 200] [--rounds 5]

Synthetic caches of moments of 128 numbers and a vector layer of 512 (1.5 kB a picture, 2 GB of disk for a million, in a
temporary folder, gone at the end). All sizes are measured in turn in one process, so that other load on the machine
hits all alike; medians of the rounds are compared. `reading`: a batch of 16 by the stream of the training, order and
noise included, in processor time; `step`: the same, and a flow of 8 blocks that learns from it. `from_disk`: reading,
by the clock, with nothing of the files in memory. `memory_mb`: what reading adds to the process, the epoch's order
included.
"""

import argparse
import gc
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np
import torch

from invariances.features.cache import FeatureCache
from invariances.features.shards import Shards
from invariances.features.stream import Features, FeatureStream
from invariances.flow.config import FlowConfig
from invariances.flow.flow import ConditionalFlow

BATCH, LATENT, CHANNELS, LAYER = 16, 128, 512, "z"


class Layer:
    """As much of a representation as a cache asks of one whose rows are on the disk."""

    shape = (CHANNELS,)


def synthetic(folder: Path, rows: int) -> FeatureCache:
    """A complete cache of noise."""
    arrays = {
        "moments": Shards(folder / "moments", rows, (2 * LATENT,), "float32"),
        "labels": Shards(folder / "labels", rows, (), "int64"),
        LAYER: Shards(folder / LAYER, rows, (CHANNELS,), "float16"),
    }
    random = np.random.default_rng(rows)
    for array in arrays.values():
        array.start()
        for first in range(0, rows, 10_000):
            values = random.standard_normal((min(10_000, rows - first), *array.shape), np.float32)
            array.write(first, values.astype(array.dtype))
        array.commit()
        array.close()
    moments, labels, layer = (Shards.load(folder / name) for name in arrays)
    return FeatureCache(None, moments, labels, {LAYER: layer}, {LAYER: Layer()})


def forgotten(folder: Path) -> None:
    """Gives the files' pages back to the system, so that the next reads come from the disk."""
    for path in folder.rglob("*.bin"):
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def own_mb() -> float:
    """Memory of this process that no file stands behind, in MB."""
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if "RssAnon" in line]
    return int(line.split()[1]) / 1e3


def per_step(work, first: int, steps: int, clock=time.process_time) -> float:
    """Milliseconds."""
    start = clock()
    for step in range(first, first + steps):
        work(step)
    return 1e3 * (clock() - start) / steps


def learner(stream: FeatureStream):
    """A training step of a small flow."""
    flow = ConditionalFlow(FlowConfig(blocks=8, width=256), (LATENT,), (CHANNELS,))
    optimizer = torch.optim.Adam(flow.parameters(), 1e-4, fused=True)

    def work(step: int) -> None:
        latent, z, _ = stream.at(step)
        optimizer.zero_grad(set_to_none=True)
        (-flow.log_prob(latent, z).mean()).backward()
        optimizer.step()

    return work


def main() -> None:
    """See the top of this file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", type=int, nargs="+", default=[1_000, 100_000, 1_000_000])
    parser.add_argument(
        "--steps", type=int, default=200, help="of reading, per round; a tenth of it of training"
    )
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.manual_seed(0)
    found = {size: {"reading": [], "step": []} for size in options.sizes}
    with tempfile.TemporaryDirectory() as home:
        streams, learners = {}, {}
        for size in options.sizes:
            cache = synthetic(Path(home) / str(size), size)
            gc.collect()
            before = own_mb()
            streams[size] = FeatureStream(Features(cache, LAYER), BATCH)
            streams[size].at(0)
            forgotten(Path(home) / str(size))
            found[size]["from_disk"] = per_step(streams[size].at, 0, options.steps, time.perf_counter)
            found[size]["memory_mb"] = own_mb() - before
            learners[size] = learner(streams[size])
            learners[size](0)
            print(f"{size} rows are there", file=sys.stderr)
        for turn in range(options.rounds):
            for size in options.sizes:
                first = turn * options.steps
                found[size]["reading"].append(per_step(streams[size].at, first, options.steps))
                found[size]["step"].append(per_step(learners[size], first, max(1, options.steps // 10)))
    for each in found.values():
        each["reading"], each["step"] = median(each["reading"]), median(each["step"])
    least = found[min(options.sizes)]
    ratios = {
        name: {size: found[size][name] / least[name] for size in options.sizes}
        for name in ("reading", "step", "from_disk")
    }
    print(json.dumps({"milliseconds_per_step": found, "of_the_smallest": ratios}, indent=2))


if __name__ == "__main__":
    main()
