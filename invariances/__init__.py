"""What does this layer of my network know, and what does it ignore?

One street, walked once: images -> representation z = Φ(x) and autoencoder z̄ = E(x) -> feature cache
-> conditional flow t: z̄ | z <-> v ~ N(0, I) -> interpreter -> evaluation -> report.

    import invariances
    interpreter = invariances.fit("resnet50", "layer4", autoencoder, "photos/")
    samples = interpreter.sample(images, n=8)
    invariances.save_grid(samples, "samples.png")

Names are imported when first used, so that `import invariances` needs no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from invariances.data.images import load_images
    from invariances.flow.flow import ConditionalFlow
    from invariances.interpreter import Interpreter
    from invariances.recipes.compare import compare
    from invariances.recipes.profile import profile
    from invariances.report.grids import save_grid
    from invariances.representation.representation import Representation
    from invariances.system.errors import UserError
    from invariances.training.fit import fit
    from invariances.zoo.loading import load_autoencoder

__version__ = "0.1.0"

_HOMES = {
    "ConditionalFlow": "flow",
    "Interpreter": "interpreter",
    "Representation": "representation",
    "UserError": "system.errors",
    "compare": "recipes.compare",
    "fit": "training.fit",
    "load_autoencoder": "zoo.loading",
    "load_images": "data.images",
    "profile": "recipes.profile",
    "save_grid": "report.grids",
}
_MODULES = {"autoencoder", "data", "evaluation", "experiments", "flow", "zoo"}

__all__ = [
    "ConditionalFlow",
    "Interpreter",
    "Representation",
    "UserError",
    "compare",
    "fit",
    "load_autoencoder",
    "load_images",
    "profile",
    "save_grid",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
    if name in _MODULES:
        return importlib.import_module(f".{name}", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_MODULES})
