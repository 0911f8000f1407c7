"""All numbers of quickstart's page: of one interpreter after the other, on the same pictures kept out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from invariances import zoo
from invariances.data.shapes import Shapes
from invariances.evaluation.classes import classes_of
from invariances.evaluation.factors import KeptFactors, kept_by_probe
from invariances.evaluation.faithfulness import Faithfulness
from invariances.evaluation.invariance import variance
from invariances.evaluation.likelihood import bits_per_dim
from invariances.evaluation.looking import Accumulator, Sampling, look
from invariances.experiments.texture_bias import cue_conflict
from invariances.interpreter import Interpreter
from invariances.recipes.budget import precision
from invariances.representation.representation import Representation
from invariances.training.config import CacheConfig
from invariances.training.data import FeatureData
from invariances.zoo.factor_reader import FactorReader, load_readers

CUE_NETWORK, CUE_LAYER = "shapes_cue", "stage3"
"""The network that saw shape and texture agree, and the layer that is sampled; its logits are only probed."""
READERS = "shapes_reader"
SHOWN, SHOWN_SAMPLES = 6, 6
"""Pictures on the page, and samples of each."""
CACHE = CacheConfig(batch_size=128)
SEEN = ("faithfulness_cosine", "top1_agreement")


class Measures:
    """All numbers of quickstart's page, of one interpreter after the other, on the same pictures kept out.

    Args:
        held_out: the pictures.
        samples: per picture.
        seed: of the samples.
    """

    def __init__(self, held_out: Any, samples: int, seed: int) -> None:
        self.held_out, self.samples, self.seed = held_out, samples, seed
        self.drawn = isinstance(held_out, Shapes)
        self.readers = load_readers(zoo.fetch(READERS)) if self.drawn else {}
        self.truth = held_out.factors(range(len(held_out))) if self.drawn else {}

    def numbers(self, interpreter: Interpreter) -> dict[str, Any]:
        """Likelihood, remaining variance, faithfulness; on drawn pictures what samples and a probe keep of factors."""
        cut = interpreter.representation
        data = FeatureData(self.held_out, self.held_out, cache=CACHE, precision=precision(), progress=False)
        data.prepare([cut], interpreter.autoencoder, training=False)
        features = data.held_out_features(cut.layer)
        maps = len(interpreter.flow.latent_shape) == 3
        open_share = variance(interpreter.flow, features, n=2 if maps else 8, seed=self.seed)
        found: dict[str, Any] = {
            # over maps a likelihood takes a second a picture; `invariances evaluate` has it
            "nll_bits_per_dim": None if maps else bits_per_dim(interpreter.flow, features),
            "variance_remaining": open_share["variance_remaining"],
        }
        if not self.drawn:
            seen = self._seen(interpreter)
            return found | {name: seen[name] for name in SEEN}
        factors, seen = self.sampled(interpreter, self.truth)
        found |= {**seen, "factors": factors}
        probe = self.readers.get(f"{cut.network_name}/{cut.layer}")
        if probe is not None:
            found["probe"] = self.probed(cut, self.truth)
        return found

    def _seen(self, interpreter: Interpreter, *more: Accumulator) -> dict[str, Any]:
        classes = classes_of(interpreter.representation)
        measures = [Faithfulness(len(self.held_out), self.samples, classes, seed=self.seed), *more]
        sampling = Sampling(self.samples, seed=self.seed, batch_size=32)
        return look(interpreter, self.held_out, measures, sampling)

    def sampled(
        self, interpreter: Interpreter, truth: Mapping[str, Tensor]
    ) -> tuple[dict[str, float], dict[str, Any]]:
        """Share of every factor that samples keep (see `kept_by_samples`), and how the network sees the samples."""
        kept = KeptFactors(self.readers["reader"], dict(truth), self.samples, self.seed)
        seen = self._seen(interpreter, kept)
        return seen["factors"], {name: seen[name] for name in SEEN}

    @torch.inference_mode()
    def probed(self, cut: Representation, truth: Mapping[str, Tensor]) -> dict[str, float]:
        """Share of every factor that the shipped probe of this layer finds in it; see `kept_by_probe`."""
        probe: FactorReader = self.readers[f"{cut.network_name}/{cut.layer}"]
        return kept_by_probe(torch.cat([probe(cut(images).cpu()) for images in self._images()]), truth)

    def _images(self) -> Iterator[Tensor]:
        return map(self.held_out.images, torch.split(torch.arange(len(self.held_out)), 64))

    def cue(self, interpreter: Interpreter) -> dict[str, Any]:
        """Which cue the network took that saw shape and texture agree: by samples, probes and conflicting pictures."""
        truth = {name: self.truth[name] for name in ("shape", "texture")}
        cut = interpreter.representation
        conflict = cue_conflict(zoo.load(CUE_NETWORK))
        shape, texture = conflict["shape"], conflict["texture"]
        return {
            "network": CUE_NETWORK,
            "layers": {
                CUE_LAYER: {"factors": self.sampled(interpreter, truth)[0], "probe": self.probed(cut, truth)},
                "logits": {"probe": self.probed(cut.at("logits"), truth)},
            },
            "conflict": conflict,
            "took": "shape" if shape > 2 * texture else "texture" if texture > 2 * shape else "both",
        }
