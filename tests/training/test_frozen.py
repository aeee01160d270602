"""What a stage may read of another: all of its training, by the tokenizer that it learnt with."""

import jax
import pytest

from t2i_jax.data import Data
from t2i_jax.stages import ClipStage, VAEStage
from t2i_jax.text import Tokenizer
from t2i_jax.training import Experiment, train
from t2i_jax.training.frozen import check_tokenizer, load_frozen, load_together
from t2i_jax.training.inputs import batch_shapes
from t2i_jax.training.serialize import encode
from tests.training.test_loop import FIRST, SECOND


def test_a_half_trained_stage_is_not_read_and_one_with_another_tokenizer_is_not_either(tmp_path, capsys):
    read = lambda: load_frozen(SECOND.stage, tmp_path, jax.random.key(0), batch_shapes(SECOND.data))
    train(FIRST, tmp_path, until=2)
    with pytest.raises(ValueError, match=r"'second' reads 'toy'.*toy is at step 2 of 6. Go on with it first"):
        read()
    capsys.readouterr()
    assert load_together(tmp_path, ["toy"])[1] == {"toy": 2}  # looking at it is of use
    assert "toy is not finished: step 2 of 6 is used" in capsys.readouterr().err
    assert train(FIRST, tmp_path) == 0
    assert set(read()) == {"toy"}

    Tokenizer.train(["a whale", "another whale"], tmp_path / "tokenizer.model")
    with pytest.raises(ValueError, match=r"tokenizer.model is not the tokenizer that 'toy' in .* and 'second' would"):
        read()
    with pytest.raises(ValueError, match=r"tokenizer.model is not the tokenizer that 'toy' in "):
        load_together(tmp_path, ["toy"])


def test_a_vae_which_reads_no_words_may_come_from_another_run(tmp_path):
    Tokenizer.train(["a whale", "another whale"], tmp_path / "tokenizer.model")
    metas = lambda stage: {
        stage.name: {"config": encode(Experiment(stage=stage, data=Data())), "made_from": {"tokenizer": "another"}}
    }
    check_tokenizer(tmp_path, metas(VAEStage()))
    with pytest.raises(ValueError, match="'clip'"):
        check_tokenizer(tmp_path, metas(ClipStage()))
