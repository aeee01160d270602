"""Every test sees 8 simulated CPU devices and checked array shapes; drawn examples have no deadline."""

import os
from importlib.util import find_spec

from tests.quick import QUICK

os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8 {QUICK}"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
if find_spec("libtpu"):  # one process may hold it: the one that a test starts
    os.environ.setdefault("JAX_PLATFORMS", "cpu")

from hypothesis import settings
from jaxtyping import install_import_hook

install_import_hook("t2i_jax", "beartype.beartype")

# The first example of a property compiles, so its time says nothing.
settings.register_profile("default", deadline=None)
settings.register_profile("stress", deadline=None, max_examples=2000)
settings.load_profile("default")
