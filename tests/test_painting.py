"""Captions from a file: every line is one, in order, or the error names the line."""

import json

import pytest

from t2i_jax.painting import paint, read_captions


def test_any_caption_comes_back_in_its_order(tmp_path):
    captions = ["a red apple", "line\u2028separator", 'with "quotes"', "tab\tand\nnewline", "\x85 next line", "🐼"]
    rows = [caption if i % 2 else {"caption": caption, "id": i} for i, caption in enumerate(captions)]
    for end in ("\n", ""):
        file = tmp_path / "captions.jsonl"
        file.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + end, encoding="utf-8")
        assert read_captions(str(file)) == captions


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "line 1"),
        (b'"whale"\n\n"apple"\n', "line 2"),
        (b'"whale"\n{"text": "apple"}\n', "line 2"),
        (b'{"caption": 3}\n', "line 1"),
        (b"a red apple\n", "line 1"),
        (b'"caf\xe9"\n', "utf-8"),
    ],
)
def test_a_bad_file_is_refused_with_its_line(tmp_path, content, said):
    file = tmp_path / "captions.jsonl"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=said):
        read_captions(str(file))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ValueError, match="absent.jsonl"):
        read_captions(str(tmp_path / "absent.jsonl"))


@pytest.mark.parametrize(
    ("out", "said"), [("folder.png", "folder.png is a folder: name a file"), ("file/a.png", "file can't be made")]
)
def test_a_place_that_takes_no_file_is_refused_before_a_cascade_is_loaded(out, said, tmp_path):
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=said):
        paint(str(tmp_path / "no run"), ["a whale"], 1, 0, str(tmp_path / out))
