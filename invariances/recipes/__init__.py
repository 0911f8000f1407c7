"""How the models that ship with the package were made: each again from nothing by one command."""
