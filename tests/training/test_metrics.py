import json

from t2i_jax.training.metrics import Reporter


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def reporter(path, start=0, **options):
    return Reporter("toy", path, start, 10, examples=4, flops=1e6, peak=1e9, **options)


def test_a_line_is_the_mean_since_the_last_one(tmp_path, capsys):
    told = reporter(tmp_path / "m.jsonl")
    for loss in (1.0, 2.0):
        told.add({"loss": loss})
    told.report(2)
    told.add({"loss": 5.0})
    told.report(3)
    told.close()
    assert [line["loss"] for line in lines(tmp_path / "m.jsonl")] == [1.5, 5.0]
    assert "toy  2/10  loss 1.5000" in capsys.readouterr().err


def test_continuing_removes_what_came_after_the_checkpoint_and_half_lines(tmp_path):
    path = tmp_path / "m.jsonl"
    path.write_text('{"step": 1, "seconds": 2.0}\n{"step": 2, "seconds": 9.0}\n{"ste')
    told = reporter(path, start=1)
    told.add({"loss": 1.0})
    told.report(2)
    told.close()
    assert [line["step"] for line in lines(path)] == [1, 2]
    assert 2.0 <= lines(path)[1]["seconds"] < 9.0


def test_tensorboard_files_are_written(tmp_path):
    told = reporter(tmp_path / "m.jsonl", tensorboard=tmp_path / "tb")
    told.add({"loss": 1.0})
    told.report(1)
    told.close()
    assert list((tmp_path / "tb").glob("events*"))
