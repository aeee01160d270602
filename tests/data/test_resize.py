"""Resizing: the two libraries that do it agree."""

import numpy as np
import pytest
from PIL import Image

from t2i_jax.data import resize as module
from t2i_jax.data.resize import resize


def pixels(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Edges and grain, of so little contrast that no overshoot leaves 0 to 255."""
    out = rng.integers(70, 186, (height, width, 3), np.uint8)
    out[: height // 2, : width // 2] = 185
    out[height // 2 :, width // 2 :] = 70
    return out


def case(rng: np.random.Generator) -> tuple[np.ndarray, tuple[float, float, float, float], tuple[int, int]]:
    height, width = (int(rng.integers(1, 120)) for _ in range(2))
    down, across = (max(1.0, float(rng.uniform(0.2, 1) * side)) for side in (height, width))
    left, top = (float(rng.uniform(0, 1) * (side - part)) for side, part in ((width, across), (height, down)))
    if rng.random() < 0.3:  # to the very edge, where rounding could leave the picture
        left, top = width - across, height - down
    return pixels(rng, height, width), (left, top, across, down), tuple(int(x) for x in rng.integers(1, 90, 2))


@pytest.mark.skipif(module.cykooz_resizer is None, reason="no wheel of cykooz-resizer for this platform")
@pytest.mark.parametrize("form", [np.asarray, Image.fromarray])
def test_it_differs_from_pillow_by_two_of_255_at_most(monkeypatch, form):
    cases = [case(np.random.default_rng(seed)) for seed in range(300)]
    fast = [resize(form(picture), box, shape) for picture, box, shape in cases]
    monkeypatch.setattr(module, "cykooz_resizer", None)
    for (picture, box, shape), found in zip(cases, fast):
        slow = resize(picture, box, shape)
        assert found.shape == slow.shape == (*shape, 3)
        assert np.abs(found.astype(int) - slow).max() <= 2, (box, shape)
