"""The conditional invertible network between latents and invariances; needs torch alone."""

from .cinn import ConditionalFlow

__all__ = ["ConditionalFlow"]
