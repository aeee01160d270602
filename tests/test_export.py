"""What is exported and what is refused, both ways; that the numbers agree, tests/interop shows with the references."""

import json

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from t2i_jax.diffusion import Clean, Flow, Process
from t2i_jax.interop import cascade, export_cascade, export_model, import_model
from t2i_jax.interop.configs import ARCHITECTURES, NoReferenceForm, shapes
from t2i_jax.models.clip import CLIP, TextTower, VisionTower
from t2i_jax.models.mmdit import MMDiT, position_table
from t2i_jax.models.prior import PriorTransformer
from t2i_jax.models.vae import AutoencoderKL
from t2i_jax.stages import DecoderStage, PriorStage

TOWER = {"width": 8, "depth": 1, "heads": 1}
MODELS = {
    "CLIPModel": CLIP(TextTower(20, 6, **TOWER), VisionTower(8, 4, **TOWER), 8),
    "PriorTransformer": PriorTransformer(embedding=8, width=8, depth=1, heads=1, context=4, text_width=8),
    "SD3Transformer2DModel": MMDiT(width=8, depth=2, heads=1, context_width=8, pooled_width=8, grid=4, qk_norm=False),
    "AutoencoderKL": AutoencoderKL(channels=(4, 4), layers=1, latent_channels=2, groups=2, attention=True, quant=True),
}
FORMLESS = PriorTransformer(embedding=8, width=8, depth=1, heads=1, context=4, text_width=4)


def zeros(model):
    return jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), shapes(model))


def exported(folder, name, without=(), **changes):
    """The folder of a model with other entries in its config, or without some."""
    export_model(MODELS[name], zeros(MODELS[name]), folder)
    config = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps({k: v for k, v in config.items() if k not in without}))
    return folder


@pytest.mark.parametrize("name, left_out", [
    ("SD3Transformer2DModel", "qk_norm"), ("AutoencoderKL", "mid_block_add_attention"),
    ("AutoencoderKL", "use_quant_conv"),
])  # fmt: skip
def test_what_a_config_leaves_out_is_the_references_default(name, left_out, tmp_path):
    assert import_model(exported(tmp_path, name, without=[left_out]))[0] == MODELS[name]


def test_a_clip_without_fields_is_that_of_the_references_defaults():
    architecture = next(a for a in ARCHITECTURES if a.reference == "CLIPModel")
    model = architecture.from_config({"text_config": {}, "vision_config": {}})
    assert (model.text.eos, model.text.pad, model.text.width, model.vision.width) == (49407, 1, 512, 768)


def test_a_clip_whose_reference_reads_captions_at_the_highest_id_is_refused_both_ways(tmp_path):
    text = json.loads((exported(tmp_path, "CLIPModel") / "config.json").read_text())["text_config"]
    with pytest.raises(ValueError, match="eos_token_id is 2, .*highest id"):
        import_model(exported(tmp_path, "CLIPModel", text_config=text | {"eos_token_id": 2}))
    model = CLIP(TextTower(20, 6, eos=2, **TOWER), VisionTower(8, 4, **TOWER), 8)
    with pytest.raises(NoReferenceForm, match="text.eos=2"):
        export_model(model, zeros(model), tmp_path / "out")


@pytest.mark.parametrize("stored", [position_table(8, 8)[None, ::4], position_table(8, 8)[None]])
def test_an_mmdit_with_other_positions_than_ours_is_refused(stored, tmp_path):
    weights = exported(tmp_path, "SD3Transformer2DModel") / "diffusion_pytorch_model.safetensors"
    tensors = load_file(weights)
    half = {"pos_embed.pos_embed": tensors["pos_embed.pos_embed"].astype(np.float16)}
    save_file(tensors | half, weights)
    assert import_model(tmp_path)[0] == MODELS["SD3Transformer2DModel"]
    save_file(tensors | {"pos_embed.pos_embed": np.ascontiguousarray(stored)}, weights)
    with pytest.raises(ValueError, match="pos_embed_max_size"):
        import_model(tmp_path)


def test_a_model_without_a_reference_form_leaves_no_file(tmp_path):
    with pytest.raises(NoReferenceForm, match="text_width=4"):
        export_model(FORMLESS, zeros(FORMLESS), tmp_path / "prior")
    assert not (tmp_path / "prior").exists()


def test_a_part_without_a_reference_form_stops_no_other_and_each_names_its_process(tmp_path, monkeypatch, capsys):
    stages = {
        "prior": PriorStage(model=FORMLESS),
        "decoder": DecoderStage(model=MODELS["SD3Transformer2DModel"], process=Process(Flow(), Clean())),
    }
    for name in stages:
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").touch()
    trained = {name: zeros(stage.model) for name, stage in stages.items()}
    monkeypatch.setattr(cascade, "steps_saved", lambda _: [2])
    monkeypatch.setattr(cascade, "load_together", lambda *_: (trained, dict.fromkeys(stages, 2)))
    monkeypatch.setattr(cascade, "read_experiment", lambda path: type("Experiment", (), {"stage": stages[path.name]}))
    assert export_cascade(tmp_path, tmp_path / "out") == ["decoder"]
    assert "prior (PriorTransformer: text_width=4" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["decoder"]
    config = json.loads((tmp_path / "out" / "decoder" / "config.json").read_text())
    said = {key: config[key] for key in config if key.startswith("t2i_jax")}
    assert said == {"t2i_jax_step": 2, "t2i_jax_prediction": "Clean()", "t2i_jax_schedule": "Flow()"}


@pytest.mark.parametrize("out", ["run", "linked", "other"])
def test_an_export_onto_a_run_is_refused_and_the_run_stays_as_it_is(out, tmp_path):
    for path in ("run/decoder", "other/vae/checkpoints"):
        (tmp_path / path).mkdir(parents=True)
    (tmp_path / "linked").symlink_to(tmp_path / "run")
    (tmp_path / "run" / "decoder" / "config.json").write_text("{}")
    with pytest.raises(ValueError, match=f"{out} is a run, .*: give a folder that is not one, such as .*{out}/export"):
        export_cascade(tmp_path / "run", tmp_path / out)
    assert (tmp_path / "run" / "decoder" / "config.json").read_text() == "{}"


def test_a_file_in_the_exports_place_is_said_before_a_stage_is_loaded(tmp_path, monkeypatch):
    (tmp_path / "vae").mkdir()
    (tmp_path / "vae" / "config.json").touch()
    monkeypatch.setattr(cascade, "steps_saved", lambda _: [2])
    with pytest.raises(ValueError, match="config.json can't be made a folder"):
        export_cascade(tmp_path, tmp_path / "vae" / "config.json")
