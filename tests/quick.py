"""What the compiler is told in tests, here and in the processes that they start.

At LLVM's first level tiny models run no slower, and are compiled in a third of the time; the passes that the project
depends on (partitioning, scheduling, fusion) stay.
"""

QUICK = "--xla_backend_optimization_level=1"
