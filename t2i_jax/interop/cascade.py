"""A whole run as folders of the reference libraries: one a stage, with the tokenizer beside the text tower."""

import json
import shutil
from pathlib import Path

import numpy as np

from t2i_jax.interop.configs import NoReferenceForm
from t2i_jax.interop.files import export_model
from t2i_jax.stages import PolishStage, VAEStage
from t2i_jax.stages.polish import polished
from t2i_jax.training.appender import say
from t2i_jax.training.checkpoint import steps_saved
from t2i_jax.training.frozen import load_together
from t2i_jax.training.run import make_folder, read_experiment

STAGES = ("vae", "polish", "clip", "prior", "decoder", "upsampler", "upsampler2")


def export_cascade(run: str | Path, out: str | Path) -> list[str]:
    """Writes every trained stage of ``run`` (averaged parameters) below ``out``; returns the stages' names.

    Embeddings enter prior and decoder divided by their norm and multiplied by sqrt(e): the prior's ``clip_std`` undoes
    the factor. Latents are normalised by ``latents_mean`` and ``latents_std`` of the VAE's config. ``polish`` is the
    whole VAE with its decoder polished: what makes the last pixels. A stage without a checkpoint, whose training has
    just begun, is left out, so is a polish without its VAE's, and so is a model that no reference class can be; lines
    on stderr name them. What the output of prior, decoder or upsampler means, and under which schedule, stands in its
    config (``t2i_jax_prediction``, ``t2i_jax_schedule``). Raises FileNotFoundError where ``run`` has no trained stage,
    and ValueError where its stages were not trained on each other or ``out`` is a run or no folder.
    """
    run, out = Path(run), Path(out)
    check_out(run, out)
    begun = [name for name in STAGES if (run / name / "config.json").is_file()]
    present = [name for name in begun if steps_saved(run / name)]
    if "vae" not in present:
        present = [name for name in present if name != "polish"]
    if left_out := [name for name in begun if name not in present]:
        say(f"not exported, because there is no checkpoint yet in {run}: {', '.join(left_out)}")
    if not present:
        raise FileNotFoundError(f"{run} has no trained stage: expected one of the folders {', '.join(STAGES)} in it")
    make_folder(out)
    trained, steps = load_together(run, present)
    for name, params in trained.items():
        stage = read_experiment(run / name).stage
        extra: dict = {"t2i_jax_step": steps[name]}
        if isinstance(stage, PolishStage):
            params, stage = polished(trained["vae"], params), stage.vae
        if isinstance(stage, VAEStage):
            extra |= {"latents_mean": params["mean"].tolist(), "latents_std": params["std"].tolist()}
            params = params["model"]
        if name == "prior":
            extra["clip_std"] = np.full(stage.model.embedding, stage.model.embedding**-0.5)
        if hasattr(stage, "process"):
            process = stage.process
            extra |= {"t2i_jax_prediction": repr(process.prediction), "t2i_jax_schedule": repr(process.schedule)}
        try:
            export_model(stage.model, params, out / name, extra)
        except NoReferenceForm as error:
            say(f"not exported, because no reference class can be it: {name} ({error})")
            present.remove(name)
            continue
        if name == "clip":
            side = stage.model.vision.image_size
            pixels = {
                "image_processor_type": "CLIPImageProcessor", "do_resize": True, "size": {"shortest_edge": side},
                "do_center_crop": True, "crop_size": {"height": side, "width": side}, "do_rescale": True,
                "rescale_factor": 1 / 255, "do_normalize": True, "image_mean": [0.5] * 3, "image_std": [0.5] * 3,
            }  # fmt: skip
            (out / name / "preprocessor_config.json").write_text(json.dumps(pixels, indent=2) + "\n")
            shutil.copyfile(run / "tokenizer.model", out / name / "tokenizer.model")
    return present


def check_out(run: Path, out: Path) -> None:
    """Raise ValueError where ``out`` is a run, this one or another, whose config.json files would be written over."""
    if out.resolve() == run.resolve() or any((out / name / "checkpoints").exists() for name in STAGES):
        raise ValueError(
            f"{out} is a run, and the export would write over its config.json files: give a folder that is not one, "
            f"such as {out / 'export'}"
        )
