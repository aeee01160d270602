import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from t2i_jax.data import commands, load_dataset
from t2i_jax.data.build import build
from t2i_jax.data.choose import Choice
from t2i_jax.data.pictures import BadPicture
from tests.data.conftest import picture


def row(number: int, key: str, *captions: str, beauty: float | None = 6.0, unsafe: float = 0.1, size=(40, 40)) -> dict:
    image = picture(number, size)
    return {"key": key, "image": image, "captions": list(captions), "beauty_score": beauty, "unsafe": unsafe}


ROWS = [
    row(0, "good", "a nice thing", "x"),
    row(1, "ugly", "an ugly thing", beauty=4.9),
    row(2, "rude", "a rude thing", unsafe=0.9),
    row(3, "none", "no score", beauty=None),
    row(4, "long", "a long thing", size=(80, 20)),
    row(5, "tiny", "a tiny thing", size=(10, 10)),
    row(6, "mute", "x"),
    row(7, "talk", "word " * 30),
]


def test_every_limit_leaves_out_what_it_says_and_counts_it(tmp_path, capsys):
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "x.parquet")
    commands.build(
        str(tmp_path / "x.parquet"), str(tmp_path / "out"), min_caption=3, max_caption=100, min_side=16, max_aspect=3.0,
        min_score=("Beauty=5",), max_score=("unsafe=0.5",), workers=1,
    )  # fmt: skip
    dataset = load_dataset(tmp_path / "out")
    assert [(r["key"], r["captions"]) for r in dataset.records(range(len(dataset)))] == [("good", ["a nice thing"])]
    lines = [json.loads(line) for line in (tmp_path / "out" / "1.0.0" / "skipped.jsonl").read_text().splitlines()]
    assert {ROWS[int(line["item"].split()[-1])]["key"]: line["reason"] for line in lines} == {
        "ugly": "score too low", "rude": "score too high", "none": "no such score", "long": "picture too long",
        "tiny": "picture too small", "mute": "caption too short", "talk": "caption too long",
    }  # fmt: skip
    assert "left out 7: 1 × score too low" in capsys.readouterr().out


def test_what_is_on_a_limit_is_taken():
    choice = Choice(min_caption=3, max_caption=5, min_side=10, max_aspect=2.0, min_score=(("a", 5.0),))
    assert choice.captions(["abc", "ab", "abcde", "abcdef"]) == ["abc", "abcde"]
    choice.check_size(10, 20)
    choice.check_scores({"A": 5.0})
    for size in ((9, 10), (10, 21)):
        with pytest.raises(BadPicture):
            choice.check_size(*size)


@pytest.mark.parametrize("captions, reason", [
    (["\0\1\2\3 abc"], "caption is no text"),
    (["\ufffd" * 5 + "abc"], "caption is no text"),
    (["x" * 10_001], "caption too long"),
    (["\ufdfa" * 9_000], "caption too long"),  # NFKC makes 18 characters of each
    (["x" * 50_000_000], "caption too long"),
    (["a"] * 1001, "too many captions"),
    ([], "empty caption"),
    (["\u200b\n", " "], "empty caption"),
])  # fmt: skip
def test_absurd_captions_are_refused_by_reason(captions, reason):
    with pytest.raises(BadPicture) as error:
        Choice().captions(captions)
    assert error.value.reason == reason


def test_ordinary_captions_of_any_script_are_taken():
    captions = ["a\tb\r\n", "красный куб", "紅い立方体 🍎", "naïve café", "a\x07 bell in a longer text"]
    assert Choice().captions(captions) == [
        "a b",
        "красный куб",
        "紅い立方体 🍎",
        "naïve café",
        "a bell in a longer text",
    ]


@pytest.mark.parametrize("options, says", [
    ({"min_score": ("aesthetic",)}, "'aesthetic': give a column of numbers and a limit"),
    ({"min_caption": 5, "max_caption": 4}, "captions of 5 to 4 characters"),
    ({"max_aspect": 0.5}, "max_aspect=0.5"),
    ({"max_pixels": 32_000_001}, "max_pixels=32000001: no training reads more than 32000000"),
    ({"duplicates": "near", "near": 9}, "near=9: bits of the hash that may differ, 0 to 3"),
])  # fmt: skip
def test_limits_that_make_no_sense_are_refused(options, says, tmp_path):
    with pytest.raises(ValueError, match=says):
        commands.build(str(tmp_path), str(tmp_path / "out"), **options)


def test_a_score_that_no_picture_has_is_an_error_that_lists_those_there_are(tmp_path):
    pq.write_table(pa.Table.from_pylist(ROWS[:3]), tmp_path / "x.parquet")
    with pytest.raises(ValueError, match="nothing usable .*'no such score': 3.*there are: beauty_score, unsafe"):
        build(tmp_path / "x.parquet", tmp_path / "out", choice=Choice(min_score=(("similarity", 1.0),)))
