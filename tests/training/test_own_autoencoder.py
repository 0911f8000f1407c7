"""An autoencoder of one's own stays out of the run's folder, and is given again."""

import pytest
import torch
from torch import nn

from invariances import Interpreter, UserError, fit
from invariances.autoencoder.posterior import DiagonalGaussian
from invariances.data.shapes import Shapes
from invariances.flow.config import FlowConfig
from invariances.training.config import LearningConfig, RunConfig


class Mine(nn.Module):
    """Means of 8 × 8 pixels."""

    image_size, latent_shape, latent_dim = 64, (192,), 192

    def encode(self, images):
        mean = nn.functional.avg_pool2d(images, 8).flatten(1)
        return DiagonalGaussian(mean, torch.full_like(mean, -6))

    def decode(self, latents):
        return nn.functional.interpolate(latents.view(-1, 3, 8, 8), 64).clamp(-1, 1)

    def fingerprint(self):
        return "mine"


def test_a_run_with_it_is_kept_and_loads_with_it_alone(tmp_path):
    learning, run = LearningConfig(steps=2, batch_size=4), RunConfig(str(tmp_path / "run"), device="cpu")
    small = FlowConfig(blocks=1, width=8)
    found = fit("shapes_shape", "pool", Mine(), Shapes(20), flow=small, learning=learning, run=run)
    with pytest.raises(UserError, match="autoencoder of your own"):
        Interpreter.load(tmp_path / "run")
    again = Interpreter.load(tmp_path / "run", autoencoder=Mine())
    images = Shapes(2, seed=3).images(range(2))
    seeds = [torch.Generator().manual_seed(0) for _ in range(2)]
    assert torch.equal(found.sample(images, generator=seeds[0]), again.sample(images, generator=seeds[1]))
