"""Measurements that are no stage: run by hand on a quiet machine, their figures are kept beside them as JSON."""
