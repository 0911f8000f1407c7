"""Any network, cut at any named layer."""

from invariances.representation.representation import Layer, Representation, Representations, survey

__all__ = ["Layer", "Representation", "Representations", "survey"]
