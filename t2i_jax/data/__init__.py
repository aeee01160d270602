"""Bytes on disk to batches: data sets, the order of examples, what happens to each, and the pipeline.

    from t2i_jax.data import load_dataset
    dataset = load_dataset("emoji64", "val_pair")
    dataset.records([0])[0]["captions"]

Nothing here needs TensorFlow.
"""

from t2i_jax.data.dataset import Dataset, load_dataset
from t2i_jax.data.memory import arrays
from t2i_jax.data.mixture import load_data
from t2i_jax.data.ops import texts_of
from t2i_jax.data.order import order
from t2i_jax.data.pipeline import batches
from t2i_jax.data.settings import Data

__all__ = ["Data", "Dataset", "arrays", "batches", "load_data", "load_dataset", "order", "texts_of"]
