"""How good a cascade is: pure measurements on arrays, and the report that ties them to a run.

    from t2i_jax.evaluation import evaluate
    evaluate(DallE2.load("runs/emoji"), "emoji64", "runs/emoji/eval")

Every measurement is a function of arrays (uint8 pictures, embeddings), in float64 where it is a statistic, and knows
neither models nor files. Feature extractors carry a name, which is printed wherever their numbers are.
"""

from t2i_jax.evaluation.features import Extractor, random_convolutions
from t2i_jax.evaluation.frechet import frechet_distance, frechet_from_moments, moments
from t2i_jax.evaluation.image import psnr, ssim
from t2i_jax.evaluation.precision_recall import precision_recall
from t2i_jax.evaluation.retrieval import recalls, retrieval_among
from t2i_jax.evaluation.run import evaluate

__all__ = [
    "Extractor",
    "evaluate",
    "frechet_distance",
    "frechet_from_moments",
    "moments",
    "precision_recall",
    "psnr",
    "random_convolutions",
    "recalls",
    "retrieval_among",
    "ssim",
]
