"""From a representation to the vector that a flow is told."""
