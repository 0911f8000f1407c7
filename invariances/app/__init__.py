"""The demos as an app: thin pages that arrange what `invariances.experiments` returns."""
