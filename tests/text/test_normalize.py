import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from t2i_jax.text import fold, keywords, normalize

ANY = st.text(st.characters(exclude_categories=()))


@given(ANY, st.sampled_from([normalize, fold]))
def test_result_is_clean_and_a_second_pass_changes_nothing(text, form):
    clean = form(text)
    clean.encode()
    assert form(clean) == clean
    assert unicodedata.is_normalized("NFKC", clean)
    assert clean == clean.strip() and "  " not in clean
    assert not any(unicodedata.category(c) == "Cc" for c in clean)


@pytest.mark.parametrize(
    "text, want",
    [
        ("  red\t\napple ", "red apple"),
        ("red\x00apple\x7f", "red apple"),
        ("ﬁne Ｃａｔ ①", "fine Cat 1"),
        ("e\u0301", "é"),
        ("\ufeffa\u200b\u00add", "ad"),
        ("👩\u200d🚀", "👩\u200d🚀"),
        ("\ud800x", "\ufffdx"),
        ("\x01", ""),
    ],
)
def test_rules(text, want):
    assert normalize(text) == want


@pytest.mark.parametrize(
    "text, want",
    [
        ("a red apple on the table", "red apple table"),
        ("whale, animals & nature, animal, Whale", "whale animals nature animal"),
        ("man without hair under a tree", "man without hair under tree"),
        ("the cat's twenty-one hats", "cat's twenty-one hats"),
        ("红色的苹果", "红色 苹果"),
        ("猫の家とtree", "猫 家 tree"),
        ("To be, or", "To be, or"),
        ("एक लाल सेब मेज पर", "एक लाल सेब मेज पर"),
        ("แอปเปิ้ลสีแดง", "แอปเปิ้ลสีแดง"),
        ("👩🏽\u200d🚀 and ❤️ on a table", "👩🏽\u200d🚀 ❤️ table"),
        ("game die, US flag", "game die US flag"),
        ("", ""),
    ],
)
def test_keywords_drop_stop_words_only(text, want):
    assert keywords(text) == want


@given(ANY)
def test_keywords_of_keywords_are_the_same(text):
    once = keywords(text)
    assert keywords(once) == once and once == normalize(once)
