import numpy as np
import pytest
from PIL import Image

from t2i_jax.training.sheet import as_pixels, sheet


def test_pictures_of_a_caption_stand_side_by_side_with_every_pixel_true(tmp_path):
    images = np.zeros((4, 32, 32, 3), np.uint8)
    images[1], images[3] = (200, 0, 0), (100, 0, 0)
    sheet(images, ["first", "second"], tmp_path / "a" / "sheet.png", columns=1)
    drawn = np.asarray(Image.open(tmp_path / "a" / "sheet.png"))
    for red in (200, 100):
        assert (drawn == (red, 0, 0)).all(-1).sum() == 96 * 96
    row = np.flatnonzero((drawn == (200, 0, 0)).all(-1).any(1))
    assert set(row) == set(np.flatnonzero((drawn == (100, 0, 0)).all(-1).any(1)))


def test_floats_are_in_minus_one_to_one_and_nan_is_black():
    assert as_pixels(np.array([-1.0, 0.0, 1.0, 7.0, np.nan])).tolist() == [0, 128, 255, 255, 0]


def test_a_number_of_pictures_that_does_not_fit_is_refused(tmp_path):
    with pytest.raises(ValueError, match="3 pictures for 2 captions"):
        sheet(np.zeros((3, 8, 8, 3), np.uint8), ["a", "b"], tmp_path / "x.png")
