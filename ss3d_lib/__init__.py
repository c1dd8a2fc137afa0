"""Self-supervised depth, ego-motion and intrinsics from ordinary video: the library behind the notebooks."""

import os

# How long a waiting thread of torch spins before it sleeps; read when torch is imported, inherited by kernels. Endless
# spinning costs up to 16 times the time where another program runs, none at all costs 1.3 times where none does.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")

__version__ = "0.1.0"
