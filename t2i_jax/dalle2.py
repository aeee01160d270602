"""The cascade in use: a sentence in, pictures out.

    model = DallE2.load("runs/emoji")
    images = model("a red apple, fluent 3d style", n=4, seed=0)     # uint8 [4, 64, 64, 3]

Caption -> tokens -> CLIP's text tower -> prior -> image embedding -> decoder -> upsampler (-> second upsampler) -> VAE
decoder, polished if that was trained. Parameters and pictures are split over the devices as in training.
TensorFlow is never imported here.
"""

import dataclasses
import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from t2i_jax.parallel.memory import on_cpu
from t2i_jax.parallel.mesh import Mesh, replicated, split_batch
from t2i_jax.parallel.options import compiler_options
from t2i_jax.parallel.rules import shardings
from t2i_jax.stages import ClipStage, DecoderStage, PriorStage, Stage, UpsamplerStage, VAEStage
from t2i_jax.stages.embeddings import image_embedding, text_embedding
from t2i_jax.stages.latents import decode, encode
from t2i_jax.stages.polish import polished
from t2i_jax.text import Tokenizer, normalize
from t2i_jax.training.checkpoint import steps_saved
from t2i_jax.training.experiment import Experiment, check_seed
from t2i_jax.training.frozen import load_together
from t2i_jax.training.inputs import batch_shapes
from t2i_jax.training.program import placed
from t2i_jax.training.run import read_experiment
from t2i_jax.types import Params, to_uint8

STAGES = ("vae", "clip", "prior", "decoder", "upsampler")
"""The order in which a cascade is trained."""
POLISH, SECOND = "polish", "upsampler2"
"""Stages that a cascade may have."""


@dataclass(frozen=True)
class DallE2:
    """Five trained stages and their tokenizer. Every method takes and gives numpy arrays; pictures are uint8."""

    tokenizer: Tokenizer | None
    vae: VAEStage
    clip: ClipStage
    prior: PriorStage
    decoder: DecoderStage
    upsampler: UpsamplerStage
    params: dict[str, Params] = field(repr=False)
    """Averaged parameters by stage, and "painter": those of the VAE that makes pixels of painted latents."""
    mesh: jax.sharding.Mesh = field(repr=False)
    """The devices that everything runs on."""
    context: int
    """Tokens a caption has room for."""
    image_size: int
    """Side of the pictures, in pixels."""
    batch: int = 32
    """Captions that go through the models at once, at most, and whose noise comes of one key: another number gives
    the captions after the first so many other pictures. The devices share them evenly, with repeated ones if need be.
    """
    second: UpsamplerStage | None = None
    """Enlarges what ``upsampler`` paints, where a run has one."""

    @classmethod
    def load(cls, run: str | Path, mesh: Mesh | None = None) -> "DallE2":
        """The cascade that was trained into ``run`` (one directory a stage), with the averaged parameters.

        ``mesh``: how it is split over the devices; default: along ``data`` over all of an accelerator's, and one of a
        CPU's. Raises FileNotFoundError that names the missing stage and the command that trains it, and ValueError for
        a stage that was trained on another version of a stage than the run has, where decoder and upsampler have other
        factors, or where the mesh does not divide a parameter.
        """
        run = Path(run)
        missing = [name for name in STAGES if not (run / name / "config.json").exists()]
        if missing or not (run / "tokenizer.model").exists():
            raise FileNotFoundError(
                f"{run} is no trained cascade: it lacks {', '.join(missing) or 'tokenizer.model'}; train with "
                f"`t2i train CONFIG --run {run}` for each stage, in the order {', '.join(STAGES)}"
            )
        further = [name for name in (POLISH, SECOND) if steps_saved(run / name)]
        experiments = {name: read_experiment(run / name) for name in (*STAGES, *further)}
        alone = mesh is None and on_cpu() and jax.process_count() == 1
        devices = (mesh or Mesh()).build(jax.devices()[:1] if alone else None)
        params, _ = load_together(run, experiments)
        polish = params.pop(POLISH, None)
        painter = polished(params["vae"], polish) if polish else None
        params = jax.device_put(params, shardings(params, devices))
        params["painter"] = jax.device_put(painter, shardings(painter, devices)) if painter else params["vae"]
        return cls._of(experiments, Tokenizer.load(run / "tokenizer.model"), params, devices)

    @classmethod
    def untrained(cls, experiments: Mapping[str, Experiment], devices: jax.sharding.Mesh) -> "DallE2":
        """What ``experiments``, by stage, would train on ``devices``: shapes in place of parameters, no tokenizer.

        For plans. Raises ValueError that names a missing stage, or stages whose factors or sizes don't belong together.
        """
        if missing := [name for name in STAGES if name not in experiments]:
            raise ValueError(f"this is no whole cascade: it lacks {', '.join(missing)}")
        wanted = {name: one for name, one in experiments.items() if name in (*STAGES, SECOND)}
        key = jax.eval_shape(lambda: jax.random.key(0))
        params = {name: jax.eval_shape(one.stage.init, key, batch_shapes(one.data)) for name, one in wanted.items()}
        params = placed(params, shardings(params, devices))
        return cls._of(wanted, None, params | {"painter": params["vae"]}, devices)

    @classmethod
    def _of(
        cls,
        experiments: Mapping[str, Experiment],
        tokenizer: Tokenizer | None,
        params: dict,
        devices: jax.sharding.Mesh,
    ) -> "DallE2":
        stages: dict[str, Stage] = {name: experiments[name].stage for name in STAGES}
        small, large = stages["decoder"].factor, stages["upsampler"].factor
        if small != large:
            raise ValueError(
                f"the configs of decoder and upsampler don't belong together: the decoder paints pictures "
                f"stage.factor={small} times smaller than the data's, the upsampler enlarges them "
                f"stage.factor={large} times. Train one of them again with the factor of the other"
            )
        data, size = experiments["upsampler"].data, experiments["decoder"].data.image_size
        if data.image_size != size:
            raise ValueError(
                f"the configs of decoder and upsampler don't belong together: the decoder was trained on the small "
                f"versions of pictures of data.image_size={size}, the upsampler paints data.image_size="
                f"{data.image_size}. Train one of them again with the size of the other"
            )
        if SECOND in experiments:
            stages["second"], data = experiments[SECOND].stage, experiments[SECOND].data
            if data.image_size != size * stages["second"].factor:
                raise ValueError(
                    f"the configs of upsampler and {SECOND} don't belong together: the one paints data.image_size="
                    f"{size}, the other enlarges stage.factor={stages['second'].factor} times to data.image_size="
                    f"{data.image_size}. Train one of them again with another size or factor"
                )
        return cls(tokenizer, **stages, params=params, mesh=devices, context=data.context, image_size=data.image_size)

    def replace(self, **stages: Stage) -> "DallE2":
        """The same weights with other values in a stage, e.g. another sampler or guidance."""
        return dataclasses.replace(self, **stages)

    def guided(self, scale: float) -> "DallE2":
        """The same weights with another scale in the decoder's guidance; nothing is compiled anew, but for 1. Raises
        ValueError for a scale that is no finite number."""
        if not math.isfinite(scale):
            raise ValueError(f"guidance {scale}: give a finite number; 1 is none")
        guidance = dataclasses.replace(self.decoder.guidance, scale=scale)
        model = self.replace(decoder=dataclasses.replace(self.decoder, guidance=guidance))
        if self.decoder.guidance.guides and guidance.guides:
            vars(model)["painter"] = self.painter
        return model

    def __call__(self, captions: str | list[str], n: int = 1, seed: int = 0, best_of: int = 1) -> np.ndarray:
        """``n`` pictures a caption: uint8 [n * len(captions), h, w, 3], the n of a caption side by side in order.

        ``best_of``: so many times as many are painted, and those kept that CLIP finds nearest to their caption, nearest
        first (Ramesh et al., https://arxiv.org/abs/2102.12092, section 2.6). The pictures depend on the caption's place
        in the list, on ``n * best_of`` and on ``seed``, but not on how many devices there are. Raises ValueError for an
        empty caption or none, a count below one, and a seed outside [0, 2^32).
        """
        if min(n, best_of) < 1:
            raise ValueError(f"n={n}, best_of={best_of}: at least one picture is painted")
        check_seed(seed)
        captions = [captions] if isinstance(captions, str) else list(captions)
        repeated = np.repeat(self.tokens(captions), n * best_of, axis=0)
        guidance = self.decoder.guidance
        scale = np.float32(guidance.scale) if guidance.guides else None
        paint = lambda part, start: self.painter(self.params, part, _key(seed, start), scale)
        images = self._sliced(repeated, paint)
        if best_of == 1:
            return images
        found = self.clip_embed_images(images).reshape(len(captions), n * best_of, -1)
        nearness = np.einsum("cne,ce->cn", found, self.clip_embed_texts(captions))
        kept = np.argsort(-nearness, axis=1, kind="stable")[:, :n] + n * best_of * np.arange(len(captions))[:, None]
        return images[kept.ravel()]

    def tokens(self, captions: list[str]) -> np.ndarray:
        """Normalised and encoded captions, int32 [n, context]. Raises ValueError that names an empty caption.

        A caption that has no room is cut, as in training; a warning says which, and what is left of it.
        """
        if not len(captions):
            raise ValueError("no caption: say what the picture should show")
        texts = [normalize(caption) for caption in captions]
        empty = [i for i, text in enumerate(texts) if not text]
        if empty:
            raise ValueError(f"caption {empty[0] + 1} of {len(texts)} is empty: say what the picture should show")
        tokens = self.tokenizer(texts, self.context)
        rows = zip(texts, self.tokenizer.lengths(texts), tokens)
        cut = {
            text: f"{text!r} has {length} and becomes {self.tokenizer.decode(row)!r}"
            for text, length, row in rows
            if length > self.context
        }
        if cut:
            said = "; ".join([*cut.values()][:3]) + (f"; so are {len(cut) - 3} others" if len(cut) > 3 else "")
            room = f"the {self.context} tokens that this cascade reads"
            warnings.warn(f"captions are cut to {room}: {said}", stacklevel=2)
        return tokens

    def prior_embed(self, captions: list[str], seed: int = 0) -> np.ndarray:
        """Image embeddings [n, e] that the prior draws for the captions, as it leaves them: the decoder sees them
        scaled to CLIP's norm sqrt(e)."""
        return self._batched(captions, lambda tokens, key: self._prior(self.params, tokens, key), seed)

    def clip_embed_texts(self, captions: list[str]) -> np.ndarray:
        """CLIP's text embeddings [n, e] of norm sqrt(e)."""
        return self._batched(captions, lambda tokens, key: self._text(self.params, tokens), 0)

    def clip_embed_images(self, images: np.ndarray) -> np.ndarray:
        """CLIP's embeddings [n, e] of norm sqrt(e) of uint8 pictures [n, h, w, 3]."""
        return self._sliced(images, lambda x, _: self._image(self.params, x))

    def reconstruct(self, images: np.ndarray) -> np.ndarray:
        """Pictures through the VAE and back, uint8."""
        return self._sliced(images, lambda x, _: self._reconstruct(self.params, x))

    def _batched(self, captions: list[str], apply: Callable, seed: int) -> np.ndarray:
        """``apply(tokens, key)`` over slices of one shape, so that it compiles once."""
        return self._sliced(self.tokens(captions), lambda part, start: apply(part, _key(seed, start)))

    def _sliced(self, rows: np.ndarray, apply: Callable) -> np.ndarray:
        """``apply(part, start)`` over slices of one shape, split over the devices."""
        where = split_batch(self.mesh)
        unit = self.mesh.size // self.mesh.shape["model"]
        size = -(-min(self.batch, len(rows)) // unit) * unit
        outputs = []
        # A start is the noise's key, so it must not depend on the devices; a row's noise does not on those that pad.
        for start in range(0, len(rows), self.batch):
            part = rows[start : start + self.batch]
            padded = np.concatenate([part, np.repeat(part[-1:], size - len(part), axis=0)])
            with jax.set_mesh(self.mesh):
                outputs.append(np.asarray(apply(jax.device_put(padded, where), start))[: len(part)])
        return np.concatenate(outputs)

    def _jit(self, function: Callable) -> Callable:
        return jax.jit(function, out_shardings=replicated(self.mesh), compiler_options=compiler_options(self.mesh))

    def _condition(self, params: dict, tokens) -> dict:
        features, embedding = text_embedding(self.clip.model, params["clip"], tokens)
        condition = {"tokens": tokens, "text_features": features, "text_embedding": embedding}
        return condition | self.decoder.text_features(params, tokens)

    @cached_property
    def painter(self) -> Callable:
        """(params, tokens int32 [b, context], key) -> uint8 [b, h, w, 3]: all that a caption goes through, jitted.

        A fourth argument is the scale of the decoder's guidance, in place of its own.
        """

        def paint(params, tokens, key, scale=None):
            guidance = self.decoder.guidance
            guidance = guidance if scale is None else dataclasses.replace(guidance, scale=scale)
            decoder = dataclasses.replace(self.decoder, guidance=guidance)
            prior_key, decoder_key, upsampler_key = jax.random.split(key, 3)
            condition = self._condition(params, tokens)
            condition |= {"image_embedding": self.prior.sample(params["prior"], prior_key, condition)}
            factor = self.decoder.factor * (self.second.factor if self.second else 1)
            side = self.image_size // factor // self.vae.model.factor
            small = decoder.sample(params["decoder"], decoder_key, condition, side)
            condition["large"] = self.upsampler.enlarged(params["vae"], small)
            latent = self.upsampler.sample(params["upsampler"], upsampler_key, condition)
            if self.second:
                condition["large"] = self.second.enlarged(params["vae"], latent)
                latent = self.second.sample(params[SECOND], jax.random.fold_in(upsampler_key, 1), condition)
            return to_uint8(decode(self.vae.model, params["painter"], latent))

        return self._jit(paint)

    @cached_property
    def _prior(self):
        return self._jit(
            lambda params, tokens, key: self.prior.draw(params["prior"], key, self._condition(params, tokens))
        )

    @cached_property
    def _text(self):
        return self._jit(lambda params, tokens: text_embedding(self.clip.model, params["clip"], tokens)[1])

    @cached_property
    def _image(self):
        return self._jit(lambda params, images: image_embedding(self.clip.model, params["clip"], jnp.asarray(images)))

    @cached_property
    def _reconstruct(self):
        def reconstruct(params, images):
            return to_uint8(decode(self.vae.model, params["painter"], encode(self.vae.model, params["vae"], images)))

        return self._jit(reconstruct)


def _key(seed: int, start: int) -> jax.Array:
    return jax.random.fold_in(jax.random.key(seed), start)
