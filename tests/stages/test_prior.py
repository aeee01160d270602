"""The prior's draws: their own norm is seen before they are scaled."""

import jax
import jax.numpy as jnp
import numpy as np

from t2i_jax.diffusion.samplers import DPMSolverPP
from t2i_jax.models.clip import CLIP, TextTower, VisionTower
from t2i_jax.models.prior import PriorTransformer
from t2i_jax.stages import PriorStage

E = 8
CLIP_MODEL = CLIP(TextTower(vocab=16, context=4, width=E, depth=1, heads=1), VisionTower(16, 8, E, 1, 1), E)
MODEL = PriorTransformer(embedding=E, width=E, depth=1, heads=1, context=4, text_width=E)
STAGE = PriorStage(model=MODEL, clip=CLIP_MODEL, sampler=DPMSolverPP(2))


def test_a_prior_of_another_scale_draws_other_norms_but_samples_the_same():
    key = jax.random.key(0)
    tokens, text = jnp.ones((3, 4), jnp.int32), jax.random.normal(key, (3, E))
    condition = {"tokens": tokens, "text_embedding": text, "text_features": jax.random.normal(key, (3, 4, E))}
    params = STAGE.init(key, {"tokens": tokens})
    params = jax.tree.map(lambda x: x + 0.3 * jax.random.normal(key, x.shape), params)  # no output of zeros
    (name,) = [name for name in params if name.endswith("out")]
    larger = params | {name: jax.tree.map(lambda x: 100 * x, params[name])}
    norm = lambda found: np.linalg.norm(found, axis=-1)
    small, large = (STAGE.draw(given, key, condition) for given in (params, larger))
    assert (norm(large) > 50 * norm(small)).all()
    for given in (params, larger):
        np.testing.assert_allclose(norm(STAGE.sample(given, key, condition)), E**0.5, rtol=1e-5)
