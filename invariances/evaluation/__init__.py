"""The numbers: one metric, one file."""
