"""Pictures, charts and pages: draws tensors and numbers, samples nothing."""
