import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from t2i_jax.text import Tokenizer, fold

CAPTIONS = [
    f"a {color} {thing}, {style}"
    for color in ("red", "blue", "green")
    for thing in ("apple", "dog", "house")
    for style in ("flat style", "shaded", "3d")
]
TOKENIZER = Tokenizer.train(CAPTIONS, vocab=340)
ANY = st.text(st.characters(exclude_categories=()))


@given(ANY)
def test_any_string_comes_back_and_a_lone_surrogate_becomes_the_replacement_character(text):
    want = "".join("\ufffd" if "\ud800" <= c <= "\udfff" else c for c in text)
    assert TOKENIZER.decode(TOKENIZER.encode(text)) == want


@pytest.mark.parametrize(
    "text", ["▁", "a ▁▁ b ", " ▁", "\x00", "<s>", "<0x41>", "  two  spaces ", "\r\n\t", "Ā\u0308 🍎", "", " "]
)
def test_marks_of_sentencepiece_itself_come_back(text):
    assert TOKENIZER.decode(TOKENIZER.encode(text)) == text


@given(st.lists(ANY, min_size=1, max_size=4), st.integers(3, 20))
def test_model_input_is_framed_and_decodes_to_the_folded_text_unless_cut(texts, context):
    tokens = TOKENIZER(texts, context)
    assert tokens.shape == (len(texts), context) and tokens.dtype == np.int32
    for row, text, length in zip(tokens, texts, TOKENIZER.lengths(texts)):
        used = min(length, context)
        assert row[0] == TOKENIZER.bos and row[used - 1] == TOKENIZER.eos and (row[used:] == TOKENIZER.pad).all()
        assert TOKENIZER.eos not in row[: used - 1] and TOKENIZER.pad not in row[:used]
        if length <= context:
            assert TOKENIZER.decode(row) == fold(text.replace("▁", " "))


def test_case_and_spacing_do_not_change_what_a_model_reads():
    np.testing.assert_array_equal(*TOKENIZER(["A  Red\tApple", "a red apple"], 12))


def test_training_twice_gives_the_same_bytes_and_another_caption_gives_others(tmp_path):
    again = Tokenizer.train(iter(CAPTIONS), tmp_path / "new" / "tokenizer.model", vocab=340)
    assert again.model == TOKENIZER.model == Tokenizer.load(tmp_path / "new" / "tokenizer.model").model
    assert Tokenizer.train([*CAPTIONS, "seven purple elephants"], vocab=340).digest != TOKENIZER.digest


def test_a_word_of_every_caption_is_one_piece_though_no_other_word_contains_it():
    things = ("whale", "whaler", "apple", "apples", "crab", "crabs", "zebra", "table")
    tokenizer = Tokenizer.train([f"{thing}, noto style" for thing in things], vocab=400)
    begin, *pieces, end = tokenizer(["whale, noto style"], 8)[0][: tokenizer.lengths(["whale, noto style"])[0]]
    assert [tokenizer.decode([piece]) for piece in pieces[-2:]] == ["noto", "style"]


def test_few_captions_give_fewer_pieces_than_asked():
    assert 260 < Tokenizer.train(["a dog", "a cat"], vocab=8192).vocab < 300


def test_eos_is_not_the_id_that_transformers_takes_for_an_old_clip():
    assert TOKENIZER.eos != 2 and len({TOKENIZER.pad, TOKENIZER.bos, TOKENIZER.eos}) == 3


@pytest.mark.parametrize(
    "captions, vocab, says",
    [
        ([], 512, "no captions"),
        (["", " \x00 "], 512, "no captions"),
        (CAPTIONS, 260, "at least 512"),
        (["".join(map(chr, range(0x4E00, 0x4F00)))] * 2, 300, "too small"),
    ],
)
def test_impossible_training_is_refused_with_the_fix(captions, vocab, says):
    with pytest.raises(ValueError, match=says):
        Tokenizer.train(captions, vocab=vocab)


def test_what_is_no_tokenizer_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="t2i data tokenizer"):
        Tokenizer.load(tmp_path / "none.model")
    with pytest.raises(ValueError, match="not a SentencePiece model"):
        Tokenizer(b"rubbish")
    with pytest.raises(ValueError, match="context=2"):
        TOKENIZER(["a"], 2)
