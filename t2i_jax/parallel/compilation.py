"""XLA's programs are kept on disk, so that the second start of the same training compiles nothing."""

import os
from pathlib import Path

import jax


def keep_compiled() -> None:
    """Use ``$T2I_CACHE/xla``, or ``~/.cache/t2i_jax/xla``, as JAX's compilation cache, unless one is set already.

    Two environment variables overrule it: JAX_COMPILATION_CACHE_DIR (another place) and
    JAX_ENABLE_COMPILATION_CACHE=false.
    """
    if jax.config.jax_compilation_cache_dir is None:
        home = Path(os.environ.get("T2I_CACHE") or Path.home() / ".cache" / "t2i_jax")
        jax.config.update("jax_compilation_cache_dir", str(home / "xla"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)
