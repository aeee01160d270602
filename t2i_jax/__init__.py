"""t2i_jax: trains a whole text-to-image cascade (CLIP, VAE, prior, decoder, upsampler) in JAX.

``from t2i_jax import DallE2, load_dataset``. Both load on first use, so that importing the package stays instant.
"""

import importlib
import os

# etils.epath asks once, at its first use. TensorFlow, which it prefers, opens gs:// alone, and takes seconds to import.
os.environ.setdefault("EPATH_USE_TF", "false")

__version__ = "0.1.0"
__all__ = ["DallE2", "load_dataset", "train"]

_HOMES = {"DallE2": "t2i_jax.dalle2", "load_dataset": "t2i_jax.data", "train": "t2i_jax.training"}


def __getattr__(name: str):
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 't2i_jax' has no attribute {name!r}")
