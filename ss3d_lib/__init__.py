"""Self-supervised depth, ego-motion and intrinsics from ordinary video: the library behind the notebooks."""

__version__ = "0.1.0"
