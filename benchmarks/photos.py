"""What `photos64` draws from photos kept out, against baselines: the tables of docs/results/photos.md, as JSON.

    python benchmarks/photos.py --packed models --efficientnet tf_efficientnet_lite0.safetensors [--photos 128]

`--packed` is the folder of `invariances models build photos`, whose split keeps photos out. For each layer: share of
samples that keep the network's class; cosine of their representations, scaled to [random other photo, reconstruction];
Fréchet distance to all photos kept out, in the pooled features of tf_efficientnet_lite0; bits that the layer tells.
Beside them: the training photo that the layer finds nearest, another photo of the same class, the flow told nothing.
"""

import argparse
import json
import sys
import time
from pathlib import Path

import torch
import torchvision

from invariances.autoencoder.lpips import LPIPS
from invariances.data.images import from_uint8, spread
from invariances.evaluation.bootstrap import number
from invariances.evaluation.faithfulness import cosine
from invariances.evaluation.fid import Moments, frechet
from invariances.evaluation.tables import Table
from invariances.interpreter import Interpreter
from invariances.recipes.photos_models import pack
from invariances.representation.representation import Representation, Representations
from invariances.system.seeds import seeded

GALLERY, BATCH = 8000, 64


@torch.inference_mode()
def in_parts(function, images):
    """A function of pictures, some at a time; dicts are joined key by key."""
    found = [function(part) for part in torch.split(images, BATCH)]
    if isinstance(found[0], dict):
        return {key: torch.cat([each[key] for each in found]) for key in found[0]}
    return torch.cat(found)


class Judge:
    """Holds what all rows of a table are measured by."""

    def __init__(self, interpreter, photos, others, all_kept_out, efficientnet):
        self.layers = Representations([interpreter.at(each).representation for each in interpreter.layers])
        self.photos = photos
        self.seen = in_parts(self.layers, photos)
        self.classes = self.seen["fc8"].argmax(1)
        self.others = in_parts(self.layers, others)
        self.reconstructions = in_parts(interpreter.reconstruct, photos)
        self.rebuilt = in_parts(self.layers, self.reconstructions)
        self.eye = Representation("tf_efficientnet_lite0", "global_pool", weights=efficientnet, size=64)
        self.real = self.gaussian(all_kept_out)

    def gaussian(self, images):
        """Mean and covariance of pictures' features."""
        moments = Moments()
        for part in torch.split(images, BATCH):
            with torch.inference_mode():
                moments.add(self.eye(part).flatten(1))
        return moments.gaussian()

    def row(self, images, layer):
        """All numbers of one picture for each photo."""
        seen = in_parts(self.layers, images)
        same = (seen["fc8"].argmax(1) == self.classes).double()
        close = [cosine(self.seen[layer], each[layer]) for each in (seen, self.rebuilt, self.others)]
        found = number("class agreement", same) | Table(torch.stack(close, 1), "scaled_higher").told(
            "cosine, scaled"
        )
        return found | {"fréchet": frechet(self.gaussian(images), self.real)}


@torch.inference_mode()
def nearest(seen, gallery, layer):
    """The photos of a gallery that a layer finds nearest, by cosine."""
    own = torch.nn.functional.normalize(seen.flatten(1), dim=1)
    best = torch.full((len(own),), -2.0)
    place = torch.zeros(len(own), dtype=torch.long)
    for start in range(0, len(gallery), BATCH):
        said = layer(gallery[start : start + BATCH]).flatten(1)
        likeness, where = (own @ torch.nn.functional.normalize(said, dim=1).T).max(dim=1)
        better = likeness > best
        best[better], place[better] = likeness[better], where[better] + start
    return gallery[place]


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--packed", type=Path, required=True)
    parser.add_argument("--efficientnet", required=True)
    parser.add_argument("--lpips")
    parser.add_argument("--photos", type=int, default=128)
    parser.add_argument("--bits", type=int, default=16, help="photos whose likelihood is taken")
    parser.add_argument("--grid", type=Path, help="picture to write: rows of photo, reconstruction, layers")
    options = parser.parse_args()
    pictures, kept_out, _ = pack(Path("unused"), options.packed)
    held = pictures[kept_out]
    photos = from_uint8(held[spread(options.photos, len(held))])
    others = photos.roll(1, 0)
    interpreter = Interpreter.load("photos64")
    judge = Judge(interpreter, photos, others, from_uint8(held), options.efficientnet)
    learnt = torch.nonzero(~kept_out)[:, 0]
    some = learnt[torch.randperm(len(learnt), generator=seeded("gallery"))[:GALLERY]]
    gallery = from_uint8(pictures[some])
    gallery_classes = in_parts(judge.layers["fc8"], gallery).argmax(1)
    same_class = torch.stack(
        [
            gallery[places[0]] if len(places := (gallery_classes == each).nonzero()[:, 0]) else gallery[0]
            for each in judge.classes
        ]
    )
    untold = interpreter.whole.at(None)
    drawn = untold.sample(n=len(photos), generator=seeded("untold"))[0]
    untold_pictures = interpreter.decode(drawn)
    found = {"photos": len(photos), "layers": {}}
    found["reconstructions"] = judge.row(judge.reconstructions, "conv5")
    if options.lpips:
        measure = LPIPS.from_file(options.lpips)
        apart = torch.cat(
            [measure(a, b) for a, b in zip(judge.reconstructions.split(BATCH), photos.split(BATCH))]
        )
        found["reconstructions"] |= number("lpips", apart.detach())
    latents = interpreter.latent(photos[: options.bits])
    base = untold.log_prob(latents)
    rows = [photos[:8], judge.reconstructions[:8]]
    for layer in interpreter.layers:
        own = interpreter.at(layer)
        began = time.monotonic()
        samples = in_parts(
            lambda part, own=own: own.sample(part, 1, generator=seeded("photos"))[:, 0], photos
        )
        seconds = (time.monotonic() - began) / len(photos)
        told = own.flow.log_prob(latents, own.represent(photos[: options.bits]))
        found["layers"][layer] = {
            "samples": judge.row(samples, layer) | {"seconds a sample": seconds},
            "guided by 2": judge.row(
                in_parts(
                    lambda part, own=own: own.sample(part, 1, generator=seeded("p"), guidance=2)[:, 0], photos
                ),
                layer,
            ),
            "nearest training photo": judge.row(
                nearest(judge.seen[layer], gallery, judge.layers[layer]), layer
            ),
            "photo of the class": judge.row(same_class, layer),
            "told nothing": judge.row(untold_pictures, layer),
            "another photo": judge.row(others, layer),
            "bits": number("bits", (told - base).detach() / torch.log(torch.tensor(2.0))),
        }
        rows.append(samples[:8])
        print(layer, json.dumps(found["layers"][layer]), file=sys.stderr)
    print(json.dumps(found, indent=2))
    if options.grid:
        stacked = torch.nn.functional.interpolate(torch.cat([*rows, untold_pictures[:8]]), scale_factor=2)
        torchvision.utils.save_image((stacked + 1) / 2, options.grid, nrow=8)


if __name__ == "__main__":
    main()
