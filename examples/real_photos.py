"""What do the layers of a real ImageNet network keep of animal faces? Trains a flow per layer, prints the table.

    python examples/real_photos.py --photos ../shared/data --weights ../shared/weights/tf_efficientnet_lite0.safetensors

`--photos` holds animalfaces10/ and animals64/; a tenth of the faces (seed 0) is kept out and evaluated. Writes one run
per layer to `--output`, each with evaluation.json, and a table of all of them to `OUTPUT/table.md`.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import ConcatDataset

from invariances.data.images import ImageFolder
from invariances.evaluation.numbers import evaluate, finite
from invariances.flow.config import FlowConfig
from invariances.interpreter import Interpreter
from invariances.recipes.animals_models import SIZE, faces_of
from invariances.report.grids import save_grid
from invariances.report.html import text_table
from invariances.representation.representation import Representation
from invariances.system.seeds import seeded
from invariances.training.config import CacheConfig, FitConfig, LearningConfig, RunConfig
from invariances.training.data import FeatureData
from invariances.training.fit import fit_layers

NETWORK = "tf_efficientnet_lite0"
COLUMNS = [
    "nll_bits_per_dim",
    "variance_remaining",
    "variance_unpredicted",
    "faithfulness_cosine",
    "faithfulness_relative_l2",
    "top1_agreement",
    "top1_agreement_reconstructions",
    "top1_agreement_others",
]
LAYERS = ["blocks.1", "blocks.2", "blocks.4", "blocks.6", "global_pool", "logits"]


def main() -> None:
    """Train, evaluate, draw."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--output", type=Path, default=Path("runs/real_photos"))
    parser.add_argument("--autoencoder", default="animals64")
    parser.add_argument("--layers", nargs="+", default=LAYERS)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--animals", type=int, default=12_500, help="of animals64, so many pictures")
    options = parser.parse_args()
    faces, held_out = faces_of(options.photos, views=4)
    animals = ImageFolder(options.photos / "animals64", size=SIZE)
    chosen = torch.randperm(len(animals), generator=torch.Generator().manual_seed(0))[
        : options.animals
    ].tolist()
    train = ConcatDataset([faces, animals.subset(sorted(chosen))])
    config = FitConfig(
        flow=FlowConfig(blocks=12, width=256),
        learning=LearningConfig(
            options.steps, 64, learning_rate=5e-4, schedule="cosine", warmup=0.2, ema=0.995
        ),
        cache=CacheConfig(max_gb=40),
        run=RunConfig(output=str(options.output / "{layer}")),
    )
    begin = time.monotonic()
    network = Representation(NETWORK, options.layers[0], options.weights)
    interpreters = fit_layers(
        network, options.layers, options.autoencoder, train, held_out=held_out, config=config
    )
    print(f"{(time.monotonic() - begin) / 60:.1f} minutes of features and training")
    first = next(iter(interpreters.values()))
    data = FeatureData(train, held_out, cache=config.cache)
    data.prepare([each.representation for each in interpreters.values()], first.autoencoder, training=False)
    results = {}
    for layer, interpreter in interpreters.items():
        results[layer] = finite(evaluate(interpreter, held_out, data.held_out_features(layer), progress=True))
        (options.output / layer / "evaluation.json").write_text(json.dumps(results[layer], indent=2))
    draw(interpreters, held_out, options.output / "samples.png")
    table = text_table(["layer", *COLUMNS], [[layer, *row(numbers)] for layer, numbers in results.items()])
    (options.output / "table.md").write_text(table + "\n")
    print(table)


def row(numbers: dict[str, Any]) -> list[Any]:
    """The numbers of one layer, in the order of COLUMNS."""
    return [numbers.get(column) for column in COLUMNS]


def draw(interpreters: dict[str, Interpreter], held_out: ImageFolder, path: Path) -> None:
    """Per kept-out face the reconstruction, then one sample per layer: decoded pictures alone, no photos."""
    images = torch.stack([held_out[k]["image"] for k in range(0, len(held_out), max(len(held_out) // 10, 1))])
    first = next(iter(interpreters.values()))
    columns = [first.reconstruct(images)]
    for interpreter in interpreters.values():
        columns += interpreter.sample(images, 2, generator=seeded("real photos", 0)).unbind(1)
    names = ["autoencoder", *[layer for layer in interpreters for _ in range(2)]]
    save_grid(torch.stack(columns, dim=1), path, column_labels=names)


if __name__ == "__main__":
    main()
