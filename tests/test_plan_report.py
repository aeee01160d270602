"""The table of plans shows what the plans say, and names what is missing."""

import json

import pytest

from benchmarks import plan_report
from tests.training.test_plan import plan


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A checkout without plans."""
    monkeypatch.setattr(plan_report, "ROOT", tmp_path)
    monkeypatch.setattr(plan_report, "PLANS", tmp_path / "docs/plan")
    (tmp_path / "docs/plan").mkdir(parents=True)
    return tmp_path


def test_the_table_shows_each_plan_and_names_the_missing(here):
    found = plan(memory={"params": 2**30, "ema": 0, "moments": 0, "frozen": 0, "batch": 0, "peak": 3 * 2**30})
    (here / "docs/plan/decoder-v5e-16x16.json").write_text(json.dumps(found.json()))
    plan_report.report()
    text = (here / "docs/plan.md").read_text()
    (row,) = [line for line in text.splitlines() if line.startswith("| decoder")]
    assert "1.00 + 2.00" in row and f"{found.mfu():.0%}" in row and "16×16×1" in row
    assert "Not planned yet: vae, clip, prior, upsampler256, upsampler1024." in text
    assert (here / "docs/plan/overview.png").exists()


def test_a_plan_of_other_sources_is_marked(here):
    memory = {"params": 1, "ema": 0, "moments": 0, "frozen": 0, "batch": 0, "peak": 1}
    for config, digest in (("prior", plan_report.sources()), ("decoder", "other")):
        text = json.dumps(plan(memory=memory).json() | {"sources": digest, "tools": "jax 0"})
        (here / f"docs/plan/{config}-v5e-16x16.json").write_text(text)
    plan_report.report()
    lines = (here / "docs/plan.md").read_text().splitlines()
    names = [line.split("|")[1].strip() for line in lines if line.startswith(("| prior", "| dec"))]
    assert names == ["prior", "decoder †"]
    assert any("Compiled with jax 0." in line for line in lines)


def test_a_plan_of_the_same_sources_is_not_made_again(here, monkeypatch):
    monkeypatch.setattr(plan_report.subprocess, "run", lambda *a, **k: pytest.fail("planned again"))
    path = here / "docs/plan/prior-v5e-16x16.json"
    path.write_text(json.dumps(plan().json() | {"sources": plan_report.sources()}))
    plan_report.make("prior", "v5e:16x16", 1)


def test_what_a_config_says_decides_no_plan_and_its_values_do(here, monkeypatch):
    path = here / "configs/dalle2/prior.py"
    path.parent.mkdir(parents=True)
    digests = []
    said = '"""Two."""\n\n# of a step\nBATCH = 1  # picture\n'
    for text in ('"""One."""\nBATCH = 1\n', said, said.replace("= 1", "= 2"), said.replace("= 1", '= "1#"')):
        path.write_text(text)
        digests.append(plan_report.sources())
    assert digests[0] == digests[1] and len(set(digests)) == 3
