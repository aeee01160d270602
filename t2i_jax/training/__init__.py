"""The trainer: experiment, optimizer, step, checkpoints, metrics and the loop."""

from t2i_jax.training.experiment import Checkpoints, Experiment, Reports
from t2i_jax.training.optimizer import AdamW, Constant, Cosine, Muon, Optimizer, Schedule

__all__ = [
    "AdamW",
    "Checkpoints",
    "Constant",
    "Cosine",
    "Experiment",
    "Muon",
    "Optimizer",
    "Reports",
    "Schedule",
]
