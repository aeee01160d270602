import json

from t2i_jax.training.metrics import Reporter


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def reporter(path, start=0, every=1, **options):
    return Reporter("toy", path, start, 10, every, examples=4, flops=10**6, peak=1e9, **options)


def test_a_line_is_the_mean_since_the_last_one(tmp_path, capsys):
    with reporter(tmp_path / "m.jsonl", every=2) as told:
        for step, loss in enumerate((1.0, 2.0, 5.0, 5.0), 1):
            told.add(step, {"loss": loss})
        told.settle()
    assert [(line["step"], line["loss"]) for line in lines(tmp_path / "m.jsonl")] == [(2, 1.5), (4, 5.0)]
    assert "toy  2/10  loss 1.5000" in capsys.readouterr().err


def test_a_steps_metrics_are_read_only_when_the_next_ones_come(tmp_path):
    class Late:
        read = False

        def __float__(self):
            self.read = True
            return 1.0

    late = Late()
    with reporter(tmp_path / "m.jsonl") as told:
        told.add(1, {"loss": late})
        assert not late.read
        told.add(2, {"loss": 1.0})
        assert late.read


def test_skipped_steps_are_counted_and_not_in_the_means(tmp_path):
    with reporter(tmp_path / "m.jsonl", every=3) as told:
        for step, loss in enumerate((1.0, float("nan"), 3.0), 1):
            told.add(step, {"loss": loss, "grad_norm": loss, "skipped": int(loss != loss)})
        told.settle()
    (line,) = lines(tmp_path / "m.jsonl")
    assert (line["loss"], line["skipped"], line["rollbacks"]) == (2.0, 1, 0)


def test_continuing_removes_what_came_after_the_checkpoint_and_half_lines(tmp_path):
    path = tmp_path / "m.jsonl"
    path.write_text('{"step": 1, "seconds": 2.0}\n{"step": 2, "seconds": 9.0}\n{"ste')
    with reporter(path, start=1) as told:
        told.add(2, {"loss": 1.0})
        told.settle()
    assert [line["step"] for line in lines(path)] == [1, 2]
    assert 2.0 <= lines(path)[1]["seconds"] < 9.0


def test_tensorboard_files_are_written(tmp_path):
    with reporter(tmp_path / "m.jsonl", tensorboard=tmp_path / "tb") as told:
        told.add(1, {"loss": 1.0})
        told.settle()
    assert list((tmp_path / "tb").glob("events*"))
