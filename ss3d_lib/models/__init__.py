"""The clip network and its parts."""

from ss3d_lib.models.clipnet import ClipNet, ClipPrediction

__all__ = ["ClipNet", "ClipPrediction"]
