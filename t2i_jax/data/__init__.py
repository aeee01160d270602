"""Bytes on disk to batches: data sets, the order of examples, what happens to each, and the pipeline.

from t2i_jax.data import load_dataset
dataset = load_dataset("emoji64", "val_pair")
dataset.records([0])[0]["captions"]
"""

from t2i_jax.data.dataset import Dataset, load_dataset

__all__ = ["Dataset", "load_dataset"]
