"""The loop of flows for several layers: it learns, stops and goes on to the bit."""

import csv
import os
import signal

import pytest
import torch

from invariances.flow.config import FlowConfig
from invariances.flow.layered import LayeredFlow
from invariances.system.errors import UserError
from invariances.system.seeds import seeded
from invariances.training.layered import CHECKPOINT, LayeredRun, columns, rate_at, train_layered
from invariances.training.metrics_file import MetricsFile
from invariances.training.run_folder import METRICS

torch.set_num_threads(1)
LAYERS = {"map": (2, 3, 3), "vector": (3,)}


class Drawn:
    """Latents that the representations say much of."""

    def __init__(self, stop_at=None):
        self.stop_at = stop_at

    count = 16

    def batch(self, step, per_layer):
        if step == self.stop_at:
            os.kill(os.getpid(), signal.SIGTERM)
        generator = seeded("drawn", step)
        latents = torch.randn(2 * per_layer, 2, 2, 2, generator=generator)
        places = torch.arange(2 * per_layer).view(2, -1)
        told = {
            "map": (places[0], latents[places[0]].mean(dim=1, keepdim=True).repeat(1, 2, 2, 2)[..., :3, :3]),
            "vector": (places[1], latents[places[1]].flatten(1)[:, :3]),
        }
        told["map"] = (places[0], torch.nn.functional.interpolate(told["map"][1], (3, 3)))
        return latents, told


def fresh():
    torch.manual_seed(0)
    return LayeredFlow(FlowConfig("maps", 1, 8), (2, 2, 2), LAYERS)


def run_of(folder, steps):
    metrics = MetricsFile(folder / METRICS, columns(LAYERS))
    return LayeredRun(folder, steps, per_layer=4, metrics_every=10, loggers=[metrics])


def test_it_learns_and_writes_rows(tmp_path):
    average = train_layered(fresh(), Drawn(), Drawn(), run_of(tmp_path, 120))
    with (tmp_path / METRICS).open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows] == [2, 4, 8, *range(10, 121, 10)]
    assert [int(row["epoch"]) for row in rows[:4]] == [1, 2, 4, 5]
    assert float(rows[-1]["held_out_vector"]) < float(rows[0]["held_out_vector"])
    assert not average.training


def test_a_stopped_run_goes_on_to_the_same_weights(tmp_path):
    whole = train_layered(fresh(), Drawn(), Drawn(), run_of(tmp_path / "whole", 20)).state_dict()
    with pytest.raises(KeyboardInterrupt):
        train_layered(fresh(), Drawn(stop_at=7), Drawn(), run_of(tmp_path / "cut", 20))
    assert torch.load(tmp_path / "cut" / CHECKPOINT, weights_only=True)["step"] == 8
    cut = train_layered(fresh(), Drawn(), Drawn(), run_of(tmp_path / "cut", 20)).state_dict()
    assert all(torch.equal(each, cut[name]) for name, each in whole.items())
    rows = [
        [line.split(",")[:-1] for line in (tmp_path / name / METRICS).read_text().splitlines()]
        for name in ("whole", "cut")
    ]
    assert [row[0] for row in rows[0]] == [row[0] for row in rows[1]]
    assert rows[0][-1] == rows[1][-1]


def test_the_rate_rises_stays_and_falls():
    assert rate_at(0, 1000) == pytest.approx(0.01)
    assert rate_at(300, 1000) == 1
    assert [rate_at(step, 100) for step in (0, 9, 30)] == [pytest.approx(0.1), 1, 1]
    assert rate_at(800, 1000) == pytest.approx(0.5)
    assert rate_at(1000, 1000) == 0


def test_a_loss_that_is_no_number_ends_the_run_before_a_step(tmp_path):
    class Broken(Drawn):
        def batch(self, step, per_layer):
            latents, told = super().batch(step, per_layer)
            return latents * (float("nan") if step == 3 else 1), told

    flow = fresh()
    with pytest.raises(UserError, match="no longer finite at step 4"):
        train_layered(flow, Broken(), Drawn(), run_of(tmp_path, 10))
    assert all(bool(each.isfinite().all()) for each in flow.parameters())
    assert not (tmp_path / CHECKPOINT).exists()
