"""Measurements that are no stage: run by hand on a quiet machine, their figures are kept beside them as JSON."""

import ss3d_lib  # noqa: F401  before torch is imported: how long its threads spin
