"""The command line: one file per command, each a typed function whose docstring is its help."""
