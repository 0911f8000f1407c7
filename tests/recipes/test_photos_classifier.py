"""The classifier of photos: its convolutions run in the number type that this processor is fast in."""

import pytest
import torch
from torch import nn

from invariances.recipes import photos_classifier


class Cut(nn.Module):
    """A convolution that remembers what type its outputs had."""

    def __init__(self):
        super().__init__()
        self.network, self.seen = nn.Conv2d(3, 4, 8), []

    def forward(self, images):
        out = self.network(images)
        self.seen.append(out.dtype)
        return out.flatten(1)


@pytest.mark.parametrize(("has", "dtype"), [(True, torch.bfloat16), (False, torch.float32)])
def test_convolutions_are_in_bfloat16_where_the_processor_has_it(monkeypatch, has, dtype):
    monkeypatch.setattr(photos_classifier, "bfloat16", lambda: has)
    cut = Cut()
    pooled = photos_classifier._pooled(cut, torch.zeros(2, 16, 16, 3, dtype=torch.uint8))
    assert pooled.dtype == torch.float16
    assert cut.seen == [dtype]
