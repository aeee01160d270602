import base64
import io
import re

import pytest
from PIL import Image

from t2i_jax.data import commands, load_dataset
from t2i_jax.data.build import build
from t2i_jax.data.inspect import inspect
from t2i_jax.data.page import write_page
from t2i_jax.text import Tokenizer
from tests.data.conftest import fill, picture


@pytest.fixture(scope="module")
def known(tmp_path_factory):
    """Nine pictures of known sizes, two the same and one nearly."""
    home = tmp_path_factory.mktemp("known")
    sizes = [(16, 16), (32, 16), (16, 32), (100, 20), (20, 100), (50, 50)]
    files = {f"{i}.png": picture(i, size) for i, size in enumerate(sizes)}
    again = io.BytesIO()
    Image.open(io.BytesIO(files["5.png"])).save(again, "JPEG", quality=90)
    files |= {"6.png": files["2.png"], "7.jpg": again.getvalue(), "8.png": picture(8, (30, 30))}
    texts = {f"{i}.txt": "left <b>&\nshort" if i == 0 else f"a thing {i}" for i in range(9)}
    build(fill(home / "in", files | texts), home / "known")
    return load_dataset(home / "known")


def test_the_facts_are_those_of_the_pictures(known):
    facts = inspect(known, Tokenizer.train(["left short a thing"], vocab=300))
    assert (facts.examples, facts.looked, facts.every) == (9, 9, 1)
    assert facts.kinds == {"PNG RGB": 8, "JPEG RGB": 1}
    assert dict(facts.shapes()) == {
        "below 0.25": 1, "0.25 to 0.5": 0, "0.5 to 0.667": 2, "0.667 to 0.8": 0, "0.8 to 0.95": 0, "0.95 to 1.05": 4,
        "1.05 to 1.25": 0, "1.25 to 1.5": 0, "1.5 to 2": 0, "2 to 4": 1, "4 and more": 1,
    }  # fmt: skip
    assert facts.captions == [2] + [1] * 8
    assert facts.characters == [9, 5] + [9] * 8
    assert len(facts.tokens) == 10
    assert facts.same == [("6", "2")]
    assert facts.near == [("7", "5")]
    assert not facts.bad
    assert "0.95 to 1.05         4 ████" in facts.text()


def test_the_page_has_every_picture_and_caption_in_it_and_no_other_file(known, tmp_path, capsys):
    commands.inspect(str(known.directory), page=str(tmp_path / "new" / "page.html"))
    assert "the page: " in capsys.readouterr().out
    page = (tmp_path / "new" / "page.html").read_text()
    images = re.findall(r'src="data:image/png;base64,([^"]+)"', page)
    sizes = [Image.open(io.BytesIO(base64.b64decode(data))).size for data in images]
    assert sizes[:4] == [(16, 16), (32, 16), (16, 32), (100, 20)]
    assert len(images) == 9
    assert "left &lt;b&gt;&amp;" in page
    assert not re.search(r'(?:src|href)="(?!data:)', page)


def test_of_a_large_set_evenly_spaced_examples_are_looked_at(known, monkeypatch):
    monkeypatch.setattr("t2i_jax.data.inspect._SAMPLE", 4)
    facts = inspect(known)
    assert (facts.every, facts.looked, facts.examples) == (3, 3, 9)
    assert "one in 3" in facts.text()


def test_damaged_records_are_counted_and_shown_as_such(known, tmp_path):
    import shutil

    shutil.copytree(known.directory, tmp_path / "hurt")
    (file,) = (tmp_path / "hurt").glob("*.array_record*")
    file.write_bytes(file.read_bytes()[: 1 << 16])
    hurt = load_dataset(tmp_path / "hurt")
    facts = inspect(hurt)
    assert facts.bad == {"damaged record": 9}
    write_page(facts, hurt, tmp_path / "page.html")
    assert "<img" not in (tmp_path / "page.html").read_text()
