"""Data sets that have names, each in the layout of the published system."""
