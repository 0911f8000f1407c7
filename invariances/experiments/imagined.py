"""Pictures that a flow draws by itself, where there are none to look at."""

from __future__ import annotations

import torch
from torch import Tensor

from invariances.flow.layered import LayeredFlow
from invariances.interpreter import Interpreter
from invariances.system.errors import UserError
from invariances.system.seeds import seeded

SURE = 0.95
GUIDANCE = 2.0


@torch.no_grad()
def imagined(interpreter: Interpreter, n: int, seed: int = 0) -> tuple[Tensor, list[str]]:
    """N pictures (n, 3, S, S) in [-1, 1] of as many classes, and these: what the flow draws when told the class alone.

    The softmax layer is told 0.95 for the class and the rest for all others, guided by 2 (see `Interpreter.sample`).

    Args:
        interpreter: Of a flow for several layers, `softmax` among them.
        n: How many.
        seed: Of classes and pictures.

    Raises:
        UserError: There is no flow for a softmax.
    """
    if not isinstance(interpreter.whole, LayeredFlow) or "softmax" not in interpreter.layers:
        raise UserError("pictures are drawn by themselves where a flow is told a softmax; give photos64")
    last = interpreter.at("softmax")
    (classes,) = last.representation.shape
    chosen = torch.randperm(classes, generator=seeded("imagined", seed))[:n]
    told = torch.full((len(chosen), classes), (1 - SURE) / (classes - 1))
    told[torch.arange(len(chosen)), chosen] = SURE
    latents = last.flow.sample(told.to(last.device), 1, generator=seeded("drawn", seed), guidance=GUIDANCE)
    names = last.representation.class_names or [str(each) for each in range(classes)]
    return last.decode(latents[:, 0]).cpu(), [names[each] for each in chosen.tolist()]
