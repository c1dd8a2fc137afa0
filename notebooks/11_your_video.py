# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 11 · Your video
#
# **Goal.** From one video file to depth maps, a camera trajectory, a focal length, and files that other programs open.
#
# **Prerequisites.** `make data`, which brings the released checkpoint (any other of this project will do). Notebook 00 for the conventions.
#
# **Inputs.** `video`: any file that ffmpeg reads. `checkpoint`: a safetensors file of this project.
#
# **Outputs.** `results/your_video/`: `figures/`, `export/` with rgb, 16-bit depth, poses, intrinsics, a coloured point
# cloud (PLY) and a COLMAP model; `prediction.json`.
#
# **Time and memory.** Half a minute for a video of half a minute on 2 cores, 3 GB. The notebook looks at the first
# `max_shots` shots only, so a film costs no more.
#
# **The number you should get.** For the video given here: more than half of its best shot's pixels triangulated
# (`trust`), and a focal length with an interval that you can judge by the field of view printed beside it.

# %% tags=["parameters"]
seed = 0  # nothing here is random; every notebook takes it
threads = 2  # cores of the reference machine
video = "data/videos/val/val_007.mp4"  # unseen in training; put the path of your own file here
checkpoint = "results/release/student.safetensors"  # the released one; results/distill/ holds that of `make repro`
max_shots = 12  # shots that are looked at, from the beginning; a film has thousands
max_std = 0.25  # of log depth: pixels less sure than 25 % stay out of the point cloud

# %%
from itertools import islice
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from ss3d_lib import drawings, export, plots
from ss3d_lib.checkpoints import load_model
from ss3d_lib.curation import curate_video
from ss3d_lib.files import write_json
from ss3d_lib.predict import WHOLE, predict_frames
from ss3d_lib.signal import reading_stride, shot_signal
from ss3d_lib.widgets import Slider, explore

torch.set_num_threads(threads)
plots.use_style()
out = Path("results/your_video")
figures = out / "figures"
model = load_model(checkpoint)

# %% [markdown]
# ## Shots, and which of them show a scene from several places
# The video is cut at its cuts and fades, black bars are cropped, and each shot gets the multi-view score of
# notebook 02. A shot from a tripod, a pure pan, or a face that fills the view has no parallax: nothing in it says how
# far things are, and its score tells so **before** you trust a depth map.
#
# **Predict:** which shots of your video will be refused, and why?

# %%
shots = list(islice(curate_video(video, WHOLE), max_shots))
signals = {shot.row.shot: shot_signal(shot.frames) for shot in shots if shot.frames is not None}
assert signals, f"{video}: no shot can be used: " + "; ".join(f"{s.row.shot}: {s.row.reason}" for s in shots)
seen = [shot for shot in shots if shot.frames is not None]
titles = [f"{s.row.start_s:.1f} s: {signals[s.row.shot].score:.2f} {signals[s.row.shot].reason}" for s in seen]
good = [signals[s.row.shot].reason == "" for s in seen]
sheet = plots.shot_sheet([s.frames[len(s.frames) // 2] for s in seen], titles, good, columns=min(6, len(seen)))
plots.save_figure(sheet, figures / "shots.png")

# %%
facts = [
    (s.row.shot, s.row.status, s.row.start_s, s.row.end_s, s.row.frames, getattr(signals.get(s.row.shot), "score", None),
     s.row.reason or getattr(signals.get(s.row.shot), "reason", ""))
    for s in shots
]  # fmt: skip
pd.DataFrame(facts, columns=["shot", "status", "start_s", "end_s", "frames", "score", "reason"])

# %% [markdown]
# ## One forward pass
# The best shot, at the stride that suits it. All of what follows comes from this one call.

# %%
strided = lambda shot: (
    len(shot.frames) // signals[shot.row.shot].stride
)  # of equal scores, take the one with more frames
best = max(seen, key=lambda shot: (round(signals[shot.row.shot].score, 1), strided(shot)))
stride = reading_stride(signals[best.row.shot], len(best.frames))
frames = best.frames[::stride]
prediction = predict_frames(model, frames)
if signals[best.row.shot].reason:
    print(f"careful: even the best shot has no multi-view signal ({signals[best.row.shot].reason}); depth is a guess")
print(f"{best.row.shot}: {len(frames)} frames of {frames.shape[2]}x{frames.shape[1]}, one of every {stride}")

# %%
assert prediction.depth_m.shape == frames.shape[:3] and (prediction.depth_m > 0).all()
assert np.allclose(prediction.world_from_cam[0], np.eye(4), atol=1e-5), "the first frame is the world"
assert prediction.focal_interval_px[0] <= prediction.focal_interval_px[1]

# %% [markdown]
# ## Depth
# Shown as inverse depth (bright is near) over its median. Beside it, how unsure the network is, and what it takes for
# moving by itself. Depth has **one unknown scale per shot**: the numbers are right up to a factor.

# %%
chosen = np.unique(np.linspace(0, len(frames) - 1, 3).astype(int))
panel = [
    {
        "frame": frames[index],
        "inverse depth": np.median(prediction.depth_m[index]) / prediction.depth_m[index],
        "std of log depth": prediction.log_depth_std[index],
        "moving": prediction.moving[index],
    }
    for index in chosen
]
plots.save_figure(plots.map_panel(panel), figures / "depth.png")


# %%
def show_frame(index: float):
    """One frame and its depth."""
    index = int(index)
    return drawings.pictures({"frame": frames[index], "depth": prediction.depth_m[index]}, depth=["depth"])


every = np.unique(np.linspace(0, len(frames) - 1, 8).astype(int))
twin = drawings.pictures(
    {f"depth of frame {i}": prediction.depth_m[i] for i in every}, depth=[f"depth of frame {i}" for i in every]
)
explore(
    show_frame, {"index": Slider(0, len(frames) - 1, 0, 1, "frame")}, plots.save_figure(twin, figures / "frames.png")
)

# %% [markdown]
# ## The path of the camera
# Seen from above, in the unit of the depth. Arrows show where the camera looks.

# %%
path = prediction.world_from_cam[:, :3, 3]
walked = np.linalg.norm(np.diff(path, axis=0), axis=1).sum()
title = f"path {walked:.2f} units; the median pixel is {np.median(prediction.depth_m):.2f} units away"
plots.save_figure(drawings.from_above(prediction.world_from_cam, title), figures / "path.png")

# %% [markdown]
# The same in three dimensions, with the points that the network is sure of. If walls are flat and meet at right
# angles, the focal length is right: a wrong one bends and shears the room. To walk about in it: `python -m ss3d_lib.viewer FOLDER`
# shows what `python -m ss3d_lib.predict VIDEO --out FOLDER` wrote.

# %%
keep = export.reliable(prediction, max_std)
print(f"{keep.mean():.0%} of the pixels are sure of their depth, at rest, and not too far away")
points, colours = export.point_cloud(
    frames, prediction.depth_m, prediction.world_from_cam, prediction.intrinsics, keep, every=6
)
some = np.linspace(0, len(points) - 1, min(len(points), 6000)).astype(int)
view = drawings.cameras_3d(prediction.world_from_cam[:: max(1, len(frames) // 12)], points[some], colours[some])
plots.save_figure(view, figures / "cloud.png")

# %% [markdown]
# ## The lens
# The network does not answer with a number but with a distribution over 32 candidates. A video without rotation or
# strong perspective does not show its focal length, and then the distribution is wide: read the interval, not only
# the estimate. The principal point is assumed at the centre of the picture.

# %%
field_deg = lambda focal_px: np.rad2deg(2 * np.arctan(frames.shape[2] / 2 / focal_px))
lens = drawings.focal_distribution(
    prediction.focal_candidates_px, prediction.focal_probability, prediction.focal_px, prediction.focal_interval_px
)
plots.save_figure(lens, figures / "focal.png")

# %%
x0, y0, x1, y1 = (int(value) for value in best.row.crop.split(":"))
to_video = min(
    (x1 - x0) / frames.shape[2], (y1 - y0) / frames.shape[1]
)  # the shot was scaled to cover its working size
low, high = prediction.focal_interval_px
pd.Series(
    {
        "focal length, px of the frames here": prediction.focal_px,
        "focal length, px of your file": prediction.focal_px * to_video,
        "horizontal field of view, degrees": field_deg(prediction.focal_px),
        "its 80 % interval, from": field_deg(high),
        "to": field_deg(low),
        "trust": prediction.trust,
    }
).round(2)

# %% [markdown]
# `trust` is the share of the view whose depth the camera's motion could triangulate; it sinks to 0 where one homography explains
# how the picture moves, as it does a pan, a zoom or a flat scene. Below about 0.2, do not believe the depth.
#
# ## Files for other programs
# | file | opens in |
# |---|---|
# | `export/cloud.ply` | MeshLab, CloudCompare, Blender |
# | `export/colmap/` | COLMAP, and what starts from its poses (Gaussian splatting, multi-view stereo) |
# | `export/depth16/*.png` | anything; value times `depth_unit` (in `export.json`) is the depth |
# | `export/poses_c2w.txt`, `intrinsics.txt` | numpy; a 4x4 camera-to-world matrix a line, OpenCV axes |

# %%
facts = export.write_all(out / "export", frames, prediction, keep)
numbers = {
    "focal_px": prediction.focal_px, "focal_low_px": float(low), "focal_high_px": float(high), "trust": prediction.trust,
    "frames": len(frames), "points": facts["points"], "score": signals[best.row.shot].score,
}  # fmt: skip
write_json(out / "prediction.json", numbers)
again = export.read_depth_png(out / "export" / "depth16" / "000000.png", facts["depth_unit"])
assert np.abs(again - prediction.depth_m[0]).max() <= facts["depth_unit"], "the PNG holds the depth to one step"
print(f"{facts['points']} points, {facts['frames']} frames in {out / 'export'}")

# %% [markdown]
# From the shell, for all shots of a video: `python -m ss3d_lib.predict VIDEO --out FOLDER` (arrays as npz).
#
# ## Recap
# - Look at the score first: a beautiful depth map of a tripod shot is a guess, and so is that of a pan or a zoom. `trust` is low there.
# - One focal length per shot, with an interval. One scale per shot, unknown.
# - To adapt the network to your footage: notebook 08. To train on a folder of it: `curate: videos:` in `params.yaml`.
#
# ## Exercises
# 1. You know that a door in the picture is 2 m high, and in the point cloud it is 0.4 units high. Make depth and path metric.
# 2. Play the video backwards. What should happen to the poses, and does it?
# 3. Crop the frames to their middle half. What should happen to the focal length in pixels, and to the field of view?

# %% tags=["solution"]
scale = 2.0 / 0.4  # the same factor for depth and for translations; rotations and the focal length stay
metric_path = scale * path
assert np.isclose(np.linalg.norm(np.diff(metric_path, axis=0), axis=1).sum(), scale * walked)

# %% tags=["solution"]
backwards = predict_frames(model, frames[::-1].copy())
turn = lambda poses: np.linalg.inv(poses[-1]) @ poses[0]  # last_from_first
angle = lambda pose: np.rad2deg(np.arccos(np.clip((np.trace(pose[:3, :3]) - 1) / 2, -1, 1)))
difference = angle(turn(prediction.world_from_cam) @ turn(backwards.world_from_cam))
print(f"forwards then backwards should turn by 0 degrees; it turns by {difference:.2f}")

# %% tags=["solution"]
height, width = frames.shape[1:3]
middle = frames[:, height // 4 : height - height // 4, width // 4 : width - width // 4]
cropped = predict_frames(model, middle)
assert cropped.depth_m.shape == middle.shape[:3]
print(f"the focal length in pixels should stay at {prediction.focal_px:.0f}; it becomes {cropped.focal_px:.0f}")
print(f"the field of view should shrink; it goes from {field_deg(prediction.focal_px):.0f} to "
      f"{np.rad2deg(2 * np.arctan(middle.shape[2] / 2 / cropped.focal_px)):.0f} degrees")  # fmt: skip

# %% [markdown]
# Does the third answer disappoint? A short clip with a small rotation says little about its lens, and then the network
# falls back on what ordinary cameras have, 0.8 of the longer side: a field of view of about 63 degrees. The interval says
# so; a longer clip with more rotation or perspective moves the estimate towards the truth (notebook 03).

# %% [markdown]
# Next: [12 · Rivals](12_rivals.ipynb). Or back to the map: [00 · Start here](00_start_here.ipynb)
