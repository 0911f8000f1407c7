"""Where pictures come from: folders, made shapes, published data sets."""
