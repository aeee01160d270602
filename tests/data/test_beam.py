import importlib.util

import pytest

from t2i_jax.data.build import build
from t2i_jax.data.runners import Beam
from tests.data.test_sources import sample, tar_of

THERE = importlib.util.find_spec("apache_beam") is not None


@pytest.fixture
def tars(tmp_path):
    for tar in range(3):
        tar_of(tmp_path / "in" / f"{tar:05d}.tar", sample(2 * tar) | sample(2 * tar + 1) | {"x.jpg": b"rubbish"})
    return tmp_path / "in"


@pytest.mark.skipif(not THERE, reason="needs apache-beam, which wants an environment of its own")
def test_a_beam_pipeline_gives_the_bytes_of_one_process(tars, tmp_path):
    build(tars, tmp_path / "one" / "x")
    build(tars, tmp_path / "beam" / "x", run=Beam("--runner=DirectRunner"))
    one, beam = (sorted((tmp_path / name / "x" / "1.0.0").iterdir()) for name in ("one", "beam"))
    assert [p.name for p in one] == [p.name for p in beam]
    assert [p.read_bytes() for p in one] == [p.read_bytes() for p in beam]


@pytest.mark.skipif(THERE, reason="apache-beam is installed")
def test_without_beam_the_error_says_how_to_get_it(tars, tmp_path):
    with pytest.raises(ValueError, match="no Apache Beam here .* extra `beam` into an environment of its own"):
        build(tars, tmp_path / "x", run=Beam())
