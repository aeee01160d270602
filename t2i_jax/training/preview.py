"""Sample sheets while training: the same captions, the same noise, the averaged parameters of the moment."""

from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from t2i_jax.parallel.hosts import leader
from t2i_jax.parallel.mesh import replicated
from t2i_jax.training.appender import say
from t2i_jax.training.experiment import Experiment
from t2i_jax.training.inputs import Inputs
from t2i_jax.training.sheet import sheet
from t2i_jax.types import Batch, Params


class Preview:
    """Draws ``samples/<step>.png`` where ``reports.preview_every`` asks for one, and at the last step."""

    def __init__(self, experiment: Experiment, inputs: Inputs, mesh: Mesh, key: jax.Array, directory: Path):
        self._experiment, self._inputs, self._mesh = experiment, inputs, mesh
        self._key, self._directory = key, directory
        self._batch: tuple[Batch, list[str]] | None = None
        self._function = jax.jit(self._pictures)

    def due(self, step: int) -> bool:
        every = self._experiment.reports.preview_every
        return bool(every) and (step % every == 0 or step == self._experiment.steps)

    def draw(self, step: int, params: Params, frozen: dict[str, Params]) -> Path:
        """Write the sheet of ``step``, where the disk has room for it; returns its path."""
        if self._batch is None:
            batch, captions = self._inputs.examples(self._experiment.reports.previews)
            self._batch = jax.device_put(batch, replicated(self._mesh)), captions
        batch, captions = self._batch
        path = self._directory / f"{step:06d}.png"
        pictures = np.asarray(self._function(params, frozen, self._key, batch))
        if leader():
            try:
                sheet(pictures, captions, path)
            except OSError as error:  # a picture is not worth a training
                say(f"{path} could not be written: {error}")
                path.unlink(missing_ok=True)
        return path

    def _pictures(self, params: Params, frozen: dict[str, Params], key: jax.Array, batch: Batch) -> Any:
        stage = self._experiment.stage
        images = stage.preview(params, frozen, key, batch | stage.features(frozen, batch))
        return jax.lax.with_sharding_constraint(images, replicated(self._mesh))
