"""Trained stages as the files that diffusers and transformers load, and back: safetensors and config.json."""

from t2i_jax.interop.cascade import export_cascade
from t2i_jax.interop.files import export_model, import_model

__all__ = ["export_cascade", "export_model", "import_model"]
