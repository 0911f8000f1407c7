import json
import subprocess
import sys

import pytest
import torch

from invariances.flow.couplings import DoubleCoupling, Permutation
from invariances.flow.layers import ActNorm


class TestActNorm:
    def test_first_training_batch_leaves_standardised(self):
        norm = ActNorm(5)
        x = 7 * torch.randn(64, 5) + 3
        y = norm(x)
        assert torch.allclose(y.mean(0), torch.zeros(5), atol=1e-5)
        assert torch.allclose(y.std(0), torch.ones(5), atol=1e-4)
        assert not torch.allclose(norm(10 * x).std(0), torch.ones(5), atol=0.5)

    def test_maps_are_standardised_per_channel(self):
        y = ActNorm(3)(5 * torch.randn(4, 3, 6, 7) - 2)
        assert torch.allclose(y.mean((0, 2, 3)), torch.zeros(3), atol=1e-5)

    def test_never_in_eval(self):
        norm = ActNorm(5).eval()
        x = 7 * torch.randn(64, 5) + 3
        assert torch.equal(norm(x), x)
        assert not norm.initialized

    @pytest.mark.parametrize("x", [torch.randn(1, 5), torch.full((8, 5), 0.1), torch.zeros(8, 5)])
    def test_no_spread_gives_scale_one(self, x):
        norm = ActNorm(5)
        assert torch.allclose(norm(x), torch.zeros(5), atol=1e-6)
        assert torch.equal(norm.scale, torch.ones(5))
        assert norm.log_det() == 0


RANK = """
import sys, json, torch
from invariances.flow.layers import ActNorm
rank, store = int(sys.argv[1]), sys.argv[2]
torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
batch = torch.arange(20.0).view(10, 2).square()
norm = ActNorm(2)
norm(batch[:3] if rank == 0 else batch[3:])
print(json.dumps([norm.loc.tolist(), norm.scale.tolist()]))
torch.distributed.destroy_process_group()
"""


@pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no distributed part")
def test_actnorm_is_the_same_on_every_rank(tmp_path):
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", RANK, str(rank), str(tmp_path / "store")],
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in (0, 1)
    ]
    (loc, scale), other = (json.loads(w.communicate(timeout=120)[0].splitlines()[-1]) for w in workers)
    assert [loc, scale] == other
    alone = ActNorm(2)
    alone(torch.arange(20.0).view(10, 2).square())
    assert torch.allclose(torch.tensor(loc), alone.loc)
    assert torch.allclose(torch.tensor(scale), alone.scale)


def test_coupling_and_permutation_by_hand():
    """Compared with the rules written out naively."""
    torch.manual_seed(0)
    coupling = DoubleCoupling(4, 3, 8, 1)
    x, e = torch.randn(5, 4), torch.randn(5, 3)
    y, log_det = coupling(x, e)
    a, b = x[:, :2], x[:, 2:]
    total = 0
    for half in (coupling.first, coupling.second):
        told = torch.cat([a, e], 1)
        s, t = torch.tanh(half.s(told)), half.t(told)
        b, total = b * s.exp() + t, total + s.sum(1)
        a, b = b, a
    assert torch.allclose(y, torch.cat([b, a], 1), atol=1e-6)
    assert torch.allclose(log_det, total, atol=1e-6)
    permutation = Permutation(4)
    assert torch.equal(permutation(x), torch.stack([x[:, i] for i in permutation.order], 1))
    assert torch.equal(permutation.inverse(permutation(x)), x)
