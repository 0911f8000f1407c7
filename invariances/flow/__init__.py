"""The conditional invertible network between latents and invariances; needs torch alone."""

from invariances.flow.flow import ConditionalFlow

__all__ = ["ConditionalFlow"]
