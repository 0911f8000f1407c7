"""The five demos as pure functions: interpreters, pictures and a generator in; tensors and numbers out."""
