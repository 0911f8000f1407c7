"""Metamers by gradient descent (plenoptic's `Metamer`, its usual settings) beside samples of `photos64`, as JSON.

    pip install plenoptic
    python benchmarks/metamers.py --packed models --efficientnet FILE --lpips FILE [--photos 16] [--iterations 2000]

Both get two pictures per photo that conv5 of `alexnet_animals` is to take for it; descent moves all in one batch, which
is faster than one by one. Seconds a picture on this machine, after training; cosine of the representations; LPIPS
between the two pictures of a photo, how much they differ; Fréchet distance to all photos kept out, in the pooled
features of tf_efficientnet_lite0, large for both where pictures are few.
"""

import argparse
import json
import time
from pathlib import Path

import plenoptic
import torch
from torch import nn

from invariances.autoencoder.lpips import LPIPS
from invariances.data.images import from_uint8, spread
from invariances.evaluation.bootstrap import number
from invariances.evaluation.faithfulness import cosine
from invariances.evaluation.fid import Moments, frechet
from invariances.interpreter import Interpreter
from invariances.recipes.photos_models import pack
from invariances.representation.representation import Representation
from invariances.system.seeds import seeded

LAYER, EACH = "conv5", 2


class Model(nn.Module):
    """Conv5 of pictures in [0, 1]."""

    def __init__(self, representation):
        super().__init__()
        self.representation = representation

    def forward(self, images):
        """Representations (N, C, H, W)."""
        return self.representation(2 * images - 1)


def descended(model, photos, iterations):
    """Metamers (N, EACH, 3, S, S) of photos (N, 3, S, S), both in [-1, 1], and their iterations."""
    images = (photos.repeat_interleave(EACH, dim=0) + 1) / 2
    metamer = plenoptic.Metamer(images, model)
    metamer.setup(torch.rand(images.shape, generator=seeded("metamer")))
    metamer.synthesize(max_iter=iterations, store_progress=False)
    made = 2 * metamer.metamer.detach().clamp(0, 1) - 1
    return made.unflatten(0, (len(photos), EACH)), len(metamer.losses)


def gaussian(eye, images):
    """Mean and covariance of features."""
    moments = Moments()
    with torch.inference_mode():
        for part in images.split(64):
            moments.add(eye(part).flatten(1))
    return moments.gaussian()


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name in ("--packed", "--efficientnet", "--lpips"):
        parser.add_argument(name, required=True)
    parser.add_argument("--photos", type=int, default=16)
    parser.add_argument("--iterations", type=int, default=2000, help="at most; it stops where its loss does")
    options = parser.parse_args()
    pictures, kept_out, _ = pack(Path("unused"), Path(options.packed))
    held = from_uint8(pictures[kept_out])
    photos = held[spread(options.photos, len(held))]
    interpreter = Interpreter.load("photos64", layer=LAYER)
    eye = Representation("tf_efficientnet_lite0", "global_pool", weights=options.efficientnet, size=64)
    real, apart = gaussian(eye, held), LPIPS.from_file(options.lpips)
    model = Model(interpreter.representation).eval()
    made, seconds = {}, {}
    began = time.monotonic()
    made["gradient descent"], steps = descended(model, photos, options.iterations)
    seconds["gradient descent"] = (time.monotonic() - began) / (EACH * len(photos))
    began = time.monotonic()
    made["photos64"] = interpreter.sample(photos, EACH, generator=seeded("metamers"))
    seconds["photos64"] = (time.monotonic() - began) / (EACH * len(photos))
    known = interpreter.represent(photos).repeat_interleave(EACH, dim=0)
    found = {"photos": len(photos), "iterations": steps}
    for name, drawn in made.items():
        flat = drawn.flatten(0, 1)
        with torch.no_grad():
            variety = apart(drawn[:, 0], drawn[:, 1])
        found[name] = {
            "seconds a picture": seconds[name],
            **number("cosine", cosine(known, interpreter.represent(flat))),
            **number("lpips between two", variety),
            "fréchet": frechet(gaussian(eye, flat), real),
        }
    found["times as fast"] = seconds["gradient descent"] / seconds["photos64"]
    print(json.dumps(found, indent=2, ensure_ascii=False))


if __name__ == "__main__":
    main()
