"""Models by name: where each comes from, its architecture, and how it is loaded.

    invariances.zoo.names("flow")                       # registered names of a kind
    module = invariances.zoo.build("bigae_animals")     # its architecture, untrained
    invariances.zoo.load_published(module, state_dict)  # filled from a published state dict, strictly
    module = invariances.zoo.load("bigae_animals")      # downloaded once, verified, loaded, in eval mode

Published checkpoints lie below `$XDG_CACHE_HOME`, each at the `file` of its entry; models that ship with the package
have a `package` path instead of an address. A classifier carries `preprocessing` (size, mean, std, interpolation,
antialias) and `layer_aliases` (published layer name -> module name, `input`, `logits` or `softmax`) as attributes.
"""

from invariances.zoo.loading import build, load, load_autoencoder, load_published
from invariances.zoo.registry import KINDS, entry, fetch, names, path

__all__ = [
    "KINDS",
    "build",
    "entry",
    "fetch",
    "load",
    "load_autoencoder",
    "load_published",
    "names",
    "path",
]
