"""Rivals beside the student: failures count against usability, and seeds are told one by one."""

import time

import numpy as np
import pytest
from test_evaluate import make_clip, oracle

from ss3d_lib import rivals
from ss3d_lib.protocol import Answer, ClipResult


def result(ate: float | None, kind: str = "multi_view") -> ClipResult:
    """A clip with that trajectory error, or (None) one for which nothing was claimed."""
    if ate is None:
        return ClipResult("clip", "street", kind, 1, {}, Answer())
    return ClipResult("clip", "street", kind, 1, {"ate_sim3": np.array([ate])}, Answer(world_from_cam=np.eye(4)[None]))


RESULTS = [result(0.02), result(0.2), result(None), result(0.05), result(None, "static")]


def test_a_failure_is_not_usable_and_other_kinds_do_not_count():
    assert rivals.reliability(RESULTS) == {"failed_share": 0.25, "usable": 0.5}


def test_the_usable_block_compares_ours_with_the_rival_and_all_with_the_line():
    ours = [result(0.01), result(0.02), result(0.03), result(0.3), result(0.5, "static")]
    line = [result(0.03)] * 4 + [result(0.03, "static")]
    seconds = np.array([1.0, 1.0, 1.0, 1.0, 99.0])
    rows = {"student": (ours, seconds), "pycolmap": (RESULTS, 2 * seconds), "line": (line, seconds)}
    block = rivals.usable_block(rows, "student", "pycolmap", "line")
    assert block["student_usable"] == 0.75 and block["pycolmap_usable"] == 0.5 and block["usable_ratio"] == 1.5
    assert block["student_s"] == 1 and block["pycolmap_s"] == 2 and block["time_ratio"] == 0.5
    assert block["student_beats_line"] == 0.5 and block["pycolmap_beats_line"] == 0.25 and block["line_beats_line"] == 0
    rows["pycolmap"] = ([result(None)] * 4 + [result(None, "static")], seconds)
    assert np.isnan(rivals.usable_block(rows, "student", "pycolmap", "line")["usable_ratio"])


def test_means_and_spread_over_seeds():
    runs = [{"x": {"rot_deg": 1.0, "clips": 2, "dir_deg": 3.0}, "y": {"rot_deg": 9.0}}, {"x": {"rot_deg": 2.0, "clips": 2}}]
    assert rivals.mean_over_seeds(runs) == {"x": {"rot_deg": 1.5, "clips": 2}}
    spread = rivals.seed_spread([run["x"] for run in runs])
    assert spread == {
        "rot_deg_mean": 1.5, "rot_deg_std": pytest.approx(0.5**0.5), "rot_deg_least": 1.0, "rot_deg_greatest": 2.0, "seeds": 2,
    }  # fmt: skip
    assert rivals.seed_spread([runs[0]["x"]])["rot_deg_std"] == 0


def test_every_clip_is_timed_and_judged_at_its_stride():
    clips = [make_clip(0), make_clip(1)]

    def predict(frames):
        time.sleep(0.02)
        clip = next(clip for clip in clips if np.array_equal(clip.frames[0], frames[0]))
        return oracle(clip, 8 // (len(frames) - 1))(frames)

    results, seconds = rivals.timed_set(clips, predict, [1, 2], "test")
    assert [found.stride for found in results] == [1, 2] and seconds.shape == (2,) and (seconds >= 0.02).all()
    assert all(found.values["ate_sim3"][0] < 1e-5 for found in results)
