"""Any network, cut at any named layer."""

from invariances.representation.representation import Representation, Representations, survey
from invariances.representation.survey import Layer

__all__ = ["Layer", "Representation", "Representations", "survey"]
