# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 00 · Start here
#
# **Goal.** Know what is predicted, what every array means, which notebook makes what, and how to run all of it.
#
# **Prerequisites.** Python and a little linear algebra. Nothing else in this collection.
#
# **Inputs.** None but `dvc.yaml` (for the map). The pictures are drawn here.
#
# **Outputs.** `results/start_here/figures/`. No other notebook reads them.
#
# **Time and memory.** Ten seconds, 0.7 GB, in every profile.
#
# **The number you should get.** 0: the largest difference between an image and its warp by the identity pose, to
# float32 rounding (the cell prints it; half a pixel of error would print about 0.1).

# %% tags=["parameters"]
seed = 0  # nothing here is random; every notebook takes it
threads = 2  # cores of the reference machine

# %% [markdown]
# ## What is this about?
# Somebody films a street with a phone. Nobody measured a distance, a camera pose, or the lens. Yet the video knows:
# near things sweep past faster than far ones, and how fast depends on how the camera moved and on its focal length.
#
# **SS3D** (Hariat et al., arXiv 2604.22686) is one network that reads a short clip and answers, in one forward pass,
# three questions: how far is each pixel (**depth**), how did the camera move (**ego-motion**), and what lens was it
# (**intrinsics**). It is trained on web video **without any label**: the only teacher is that the frames of a clip
# show one scene. This collection builds that training, from raw videos to one checkpoint, at a size that a laptop
# trains in less than half an hour. It is our own implementation: the authors published no code.
#
# | you get | shape | meaning |
# |---|---|---|
# | `depth_m` | (T, H, W) | z-depth of each pixel, one unknown scale per clip (metres only by chance) |
# | `log_depth_std` | (T, H, W) | how unsure: standard error of log depth |
# | `world_from_cam` | (T, 4, 4) | camera poses; the first frame is the world |
# | `focal_px`, its interval | scalars | focal length of the whole clip, in pixels |
# | `moving` | (T, H, W) | what moves by itself |
# | `trust` | scalar | share of the view whose depth the motion could triangulate; near 0 where one homography explains all motion (pan, zoom, flat scene) |

# %%
import re
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
import yaml

from ss3d_lib import drawings, geometry, metrics, plots, toy_scene
from ss3d_lib.files import read_json
from ss3d_lib.widgets import Slider, explore

torch.set_num_threads(threads)
plots.use_style()
figures = Path("results/start_here/figures")

# %% [markdown]
# ## The map
# Every box is a stage: one notebook, one section of `params.yaml`, one folder `results/NAME/`. An arrow means "reads
# the results of". `make repro` runs what is out of date, in this order; but for `release` and `rivals`, which are frozen: what they
# wrote comes with the repository.

# %%
stages, params = yaml.safe_load(Path("dvc.yaml").read_text())["stages"], yaml.safe_load(Path("params.yaml").read_text())
reads = {
    name: set(re.findall(r"results/(\w+)", str(body) + str(params.get(name)))) & set(stages) - {name}
    for name, body in stages.items()
}
numbers = {path.stem[3:].split("_")[0]: path.stem[:2] for path in sorted(Path("notebooks").glob("*.py"))}
notes = {name: f"notebook {numbers.get(name, '')}" for name in stages}
plots.save_figure(drawings.stage_graph(reads, notes), figures / "stages.png")

# %%
describe = lambda body: body.get("do", body)["desc"]
took = {
    name: read_json(f"results/{name}/timing.json")["seconds"]
    for name in stages
    if Path(f"results/{name}/timing.json").exists()
}
for cell in sorted(Path("results").glob("evaluate/*/timing.json")):
    took["evaluate"] = took.get("evaluate", 0) + read_json(cell)["seconds"]
table = pd.DataFrame({"notebook": notes, "what it does": {name: describe(body) for name, body in stages.items()}})
table["minutes, last run here"] = pd.Series(
    {name: round(seconds / 60, 1) for name, seconds in took.items()}, dtype=float
)
table.style.set_properties(**{"text-align": "left"})

# %% [markdown]
# ## Convention 1: axes
# A camera looks along **z**; **x** points right and **y** points **down**, as in OpenCV. So a point that is higher in
# the picture has a *smaller* y. Below: a camera in a toy room (a floor, a wall, a box), and what it sees. The room is
# drawn by arithmetic, so its depth is exact.
#
# **Predict:** the box stands on the floor, one unit below the camera. Is the y of the floor +1 or -1?

# %%
height, width, focal_px = 120, 160, 130.0
intrinsics = geometry.intrinsics_matrix(torch.tensor(focal_px, dtype=torch.float64), height, width).numpy()
world_from_first = np.eye(4)
first, depth_first = toy_scene.render(world_from_first, intrinsics, height, width)
shown = {"what the camera sees": first, "its depth": depth_first}
plots.save_figure(drawings.pictures(shown, depth=["its depth"]), figures / "room.png")

# %%
y, x = np.mgrid[:height:2, :width:2]
rays = np.stack([x, y, np.ones_like(x)], -1) @ np.linalg.inv(intrinsics).T
points = (rays * depth_first[::2, ::2, None]).reshape(-1, 3)
colours = (255 * first[::2, ::2]).astype(np.uint8).reshape(-1, 3)
plots.save_figure(drawings.cameras_3d(np.eye(4)[None], points, colours, size=1.0), figures / "axes.png")

# %%
camera = torch.tensor(intrinsics, dtype=torch.float32)[None]
below_right_ahead = torch.tensor([[[1.0, 1.0, 4.0]]])
pixel, z = geometry.project(below_right_ahead, camera)
assert pixel[0, 0, 0] > (width - 1) / 2 and pixel[0, 0, 1] > (height - 1) / 2, "right is +x, down is +y"
assert float(z) == 4.0
print(f"the point 1 right, 1 down, 4 ahead is at pixel x = {pixel[0, 0, 0]:.1f}, y = {pixel[0, 0, 1]:.1f}")

# %% [markdown]
# ## Convention 2: depth is z, not the length of the ray
# The wall is a plane at z = 6. Its depth map is **constant**; the distance from the lens to it is not: at the corner
# of the picture the ray is longer. Depth cameras and this project store z. Some renderers store the ray.

# %%
towards_wall = np.full((height, width), 6.0)
ray_length = towards_wall * np.linalg.norm(geometry.rays(height, width, camera)[0].numpy(), axis=-1)
figure, axis = plt.subplots(figsize=(5, 2.4))
axis.plot(towards_wall[height // 2], label="z-depth (ours)")
axis.plot(ray_length[height // 2], label="length of the ray")
axis.set(xlabel="x, px", ylabel="distance to the wall", ylim=(5.8, 7.2))
axis.legend(fontsize=8)
plots.save_figure(figure, figures / "z_depth.png")

# %%
assert np.allclose(geometry.backproject(torch.tensor(towards_wall)[None].float(), camera)[0, ..., 2], 6.0)

# %% [markdown]
# ## Convention 3: pixel centres are at whole numbers
# The centre of the top-left pixel is (0, 0), that of the bottom-right one (W - 1, H - 1), and the middle of the image
# is ((W - 1) / 2, (H - 1) / 2). Every sample uses `align_corners=True`, which means just that. Hence the first test
# this project ever had: **warping an image with the identity pose returns the image.** Three well-known codebases
# fail it, by mixing two conventions: they normalise by W - 1 and sample with `align_corners=False`.

# %%
to_tensor = lambda image: torch.tensor(image).permute(2, 0, 1)[None].float()
source, depth = to_tensor(first), torch.tensor(depth_first)[None]
identity, visible = geometry.warp(source, depth, camera, torch.eye(4)[None])
worst = float((identity - source).abs().max())
assert worst < 1e-4 and visible.all(), f"the identity warp changes the image by {worst}"
print(f"largest change by the identity warp: {worst:.1e}")

# %% [markdown]
# What the mistake looks like: the identity, applied ten times. The image shrinks towards its centre and blurs. A
# network trained through it learns depths that undo the error.


# %%
def mixed_conventions(image: torch.Tensor) -> torch.Tensor:
    """The identity warp with the famous mistake: normalised by W - 1, sampled with align_corners=False."""
    grid = geometry.pixel_grid(height, width) / torch.tensor([width - 1.0, height - 1.0]) * 2 - 1
    return torch.nn.functional.grid_sample(image, grid[None], padding_mode="border", align_corners=False)


ours, mixed = source, source
for _ in range(10):
    ours, mixed = geometry.sample(ours, geometry.pixel_grid(height, width)[None]), mixed_conventions(mixed)
to_image = lambda tensor: tensor[0].permute(1, 2, 0).numpy()
shown = {"image": first, "ours, 10 times": to_image(ours), "mixed, 10 times": to_image(mixed)}
shown["mixed minus image"] = 0.5 + to_image(mixed - source)
plots.save_figure(drawings.pictures(shown), figures / "identity_warp.png")

# %% [markdown]
# When an image is resized, areas scale and centres do not: `x' = (x + 0.5) * scale - 0.5`. So halving an image of
# width 160 moves its middle from 79.5 to 39.5, not to 39.75.

# %%
halved = geometry.resize_intrinsics(camera, 0.5, 0.5)[0]
assert halved[0, 2] == (width / 2 - 1) / 2 and halved[0, 0] == focal_px / 2
print(f"focal length {halved[0, 0]:.0f} px, middle at {halved[0, 2]:.2f} px")

# %% [markdown]
# ## Convention 4: poses are named `tgt_from_src`
# A pose is a 4x4 matrix that takes points **from** the frame on the right **to** the frame on the left:
# `p_tgt = tgt_from_src @ p_src`. Names then chain like dominoes: `c_from_b @ b_from_a` is `c_from_a`, and a chain whose
# neighbours do not match is wrong at sight.
#
# **Predict:** the second camera stands half a unit to the right of the first. What is the translation in
# `second_from_first`: +0.5 or -0.5?

# %%
world_from_second = np.eye(4)
world_from_second[:3, :3] = geometry.so3_exp(torch.tensor([[0.03, -0.10, 0.02]]))[0].numpy()
world_from_second[:3, 3] = [0.5, -0.1, 0.3]
second_from_first = np.linalg.inv(world_from_second) @ world_from_first
print(second_from_first.round(2))
assert second_from_first[0, 3] < 0, "what the camera does, the points undo"

# %%
steps = torch.tensor(second_from_first, dtype=torch.float32).expand(1, 6, 4, 4)
chain = geometry.chain_poses(steps)[0].numpy()
assert np.allclose(chain[1], world_from_second, atol=1e-5) and np.allclose(chain[0], np.eye(4))
plots.save_figure(drawings.cameras_3d(chain, title="the same step six times", size=0.3), figures / "chain.png")

# %% [markdown]
# ## All of it at once: the warp
# The second picture, sampled where the first one's pixels land in it, looks like the first. This is how a network can
# learn without labels: if depth, pose and focal length are right, the frames agree. The room lets us check it: warp
# the second picture, and compare with the first.
#
# $$p_\text{second} \sim K\,\big(R\,z\,K^{-1}p_\text{first} + t\big)$$

# %%
second, _ = toy_scene.render(world_from_second, intrinsics, height, width)
pose = torch.tensor(second_from_first, dtype=torch.float32)[None]
warped, visible = geometry.warp(to_tensor(second), depth, camera, pose)
error = (warped - source).abs().mean(1)[0]
shown = {"first": first, "second": second, "second, warped to first": to_image(warped)}
shown["difference"] = np.repeat((4 * error * visible[0]).numpy()[..., None], 3, -1)
plots.save_figure(drawings.pictures(shown), figures / "warp.png")

# %% [markdown]
# What is left are the parts of the floor, wall and box that the second camera cannot see: **occlusions**. A photometric loss must
# not learn from them.

# %%
typical = float(error[visible[0]].median())
assert typical < 5e-3, f"the warp is off by {typical} grey levels in the median"
print(f"median difference {typical:.4f} of 1; before the warp {np.median(np.abs(second - first)):.4f}")

# %% [markdown]
# ## Try it: which errors can the picture hide?
# Move a slider and watch the difference. Depth and translation can grow *together* without any difference: a video
# does not show its **scale**. The focal length hides less well, but it does hide when the camera hardly rotates.


# %%
def try_warp(depth_factor: float = 1.0, focal_factor: float = 1.0, shift: float = 0.0):
    """The warp with a wrong depth, focal length or sideways translation; the title tells the mean difference."""
    wrong = geometry.intrinsics_matrix(torch.tensor([focal_px * focal_factor]), height, width)
    moved = pose.clone()
    moved[0, 0, 3] += shift
    image, seen = geometry.warp(to_tensor(second), depth * depth_factor, wrong, moved)
    difference = (image - source).abs().mean(1)[0] * seen[0]
    name = f"mean difference {float(difference[seen[0]].mean()):.3f}"
    return drawings.pictures(
        {"first": first, "warped": to_image(image), name: np.repeat(4 * difference.numpy()[..., None], 3, -1)}
    )


sliders = {
    "depth_factor": Slider(0.5, 2.0, 1.0, 0.05, "depth, times"),
    "focal_factor": Slider(0.5, 2.0, 1.0, 0.05, "focal length, times"),
    "shift": Slider(-0.5, 0.5, 0.0, 0.02, "shift right, units"),
}
explore(try_warp, sliders, plots.save_figure(try_warp(depth_factor=1.4), figures / "try_warp.png"))


# %%
def mean_difference(depth_factor=1.0, focal_factor=1.0, scale=1.0):
    """Mean difference of the warp under wrong depth, focal length, and length of the translation."""
    wrong = geometry.intrinsics_matrix(torch.tensor([focal_px * float(focal_factor)]), height, width)
    moved = pose.clone()
    moved[0, :3, 3] *= scale
    image, seen = geometry.warp(to_tensor(second), depth * depth_factor, wrong, moved)
    return float((image - source).abs().mean(1)[0][seen[0]].mean())


factors = np.geomspace(0.5, 2, 25)
figure, axis = plt.subplots(figsize=(5.5, 2.8))
axis.plot(factors, [mean_difference(f) for f in factors], label="depth alone")
axis.plot(factors, [mean_difference(1, f) for f in factors], label="focal length alone")
axis.plot(factors, [mean_difference(f, 1, f) for f in factors], label="depth and translation together")
axis.set(xscale="log", xlabel="factor", ylabel="mean difference")
axis.legend(fontsize=8)
plots.save_figure(figure, figures / "what_hides.png")

# %% [markdown]
# ## Convention 5: a metric says how it was aligned
# Because the scale is unknown, a prediction is brought to the truth before it is judged, and the result depends on
# **how**. So the alignment is part of the name, and two alignments never share a column:
#
# | suffix | what is fitted | to |
# |---|---|---|
# | `_metric` | nothing | |
# | `_median` | one scale | each image |
# | `_video` | one scale | each clip |
# | `_affine` | scale and shift of inverse depth | each image |
# | `ate_sim3`, `ate_se3` | a similarity, a rigid motion | each trajectory |
#
# **Predict:** a depth map that is right but for a factor 3, and one whose *inverse* is shifted: which errors vanish?

# %%
true_m = depth_first.astype(np.float64)
spoilt = {"times 3": 3 * true_m, "1/z shifted": 1 / (1 / true_m + 0.1)}
rows = {
    name: {
        f"absrel_{how}": metrics.depth_metrics(guess, true_m, how)[f"absrel_{how}"]
        for how in ("metric", "median", "affine")
    }
    for name, guess in spoilt.items()
}
assert rows["times 3"]["absrel_median"] < 1e-9 < rows["1/z shifted"]["absrel_median"]
assert rows["1/z shifted"]["absrel_affine"] < 1e-6
pd.DataFrame(rows).T.round(3)

# %% [markdown]
# Names carry units as well: `_px`, `_m`, `_rad`, `_deg`, `_s`.
#
# ## How to run things
# | you want | type |
# |---|---|
# | everything, from the videos to the tables | `make repro` |
# | one stage and what it needs | `dvc repro score` |
# | to read and run the notebooks | `make lab` |
# | another value of a parameter | change it in `params.yaml`, then `make repro` |
# | one notebook with values of your own, once | `python -m ss3d_lib.run_notebook your_video -p video=my.mp4` |
# | depth, poses and focal length of a video, as arrays | `python -m ss3d_lib.predict my.mp4 --out folder` |
# | to train on your own videos | set `curate: videos:` in `params.yaml` to your folder, then `make repro` |
# | to know whether all is well | `make test` |
#
# Run by hand, a notebook uses the values in its `parameters` cell; run by DVC, those of `params.yaml`. The .py file
# is the notebook; the .ipynb beside it is made from it by `make twins`. Executed copies, with figures, lie in
# `results/NAME/`.
#
# **Hardware.** Two CPU cores, 8 GB of memory and 11 GB of disk are enough. No GPU is used.
#
# ## Glossary
# | word | meaning |
# |---|---|
# | shot | frames between two cuts: one camera, one scene |
# | clip | the frames of a shot that are fed to the network together |
# | stride | by how many frames two neighbours of a clip are apart; 1 takes every frame |
# | intrinsics, K | focal length and principal point: from directions to pixels |
# | focal length | in pixels of the image given; half the width / tan(half the horizontal field of view) |
# | ego-motion | how the camera moved between two frames |
# | parallax | the part of the motion in the image that depends on depth |
# | epipolar line | where a pixel of one image may lie in another, whatever its depth |
# | multi-view signal | evidence that a shot shows a rigid scene from several places (notebook 02) |
# | expert, student | a network tuned to one kind of scene; the one network that learns from all experts |
# | plane sweep | try many depths for a pixel, and keep the one under which the other frames look like it (notebook 04) |
# | bundle adjustment | find cameras and points together, so that every point falls where it was seen (notebook 03) |
# | soft label | a probability for each candidate instead of one answer: it says how sure the teacher is (notebook 03) |
# | Pareto-optimal | no task can get better without another getting worse (notebook 06) |
# | trust | how much evidence of depth a clip gave, from 0 to 1, with parallax that no homography explains; it does not say that the evidence is true |
# | label-free | uses nothing but the videos: no weight ever sees a label. Ground truth measures; a few constants (such as how prices weigh in the sweep) were chosen with it, on validation |

# %% [markdown]
# ## Recap
# - x right, y down, z forward; depth is z; the first pixel's centre is (0, 0); `tgt_from_src`.
# - The identity warp returns the image. Test it before anything else.
# - A video hides its scale, and so a metric must say how it was aligned.
#
# ## Exercises
# 1. A phone has a horizontal field of view of 66 degrees. What is its focal length in a video 640 pixels wide?
# 2. `a_from_b` and `c_from_b` are given. Write `a_from_c`.
# 3. Without rotation, how many pixels does a point 2 units ahead move when the camera moves 0.1 units to the right,
#    with a focal length of 500 px? And which way?

# %% tags=["solution"]
answer_px = 320 / np.tan(np.deg2rad(33))
assert abs(answer_px - 492.8) < 0.1
print(f"1. {answer_px:.1f} px")

# %% tags=["solution"]
a_from_b, c_from_b = (torch.tensor(chain[index], dtype=torch.float32) for index in (1, 3))
a_from_c = a_from_b @ geometry.invert_pose(c_from_b)
assert torch.allclose(a_from_c @ c_from_b, a_from_b, atol=1e-5)
print("2. a_from_b @ inverse(c_from_b)")

# %% tags=["solution"]
point = torch.tensor([[[0.0, 0.0, 2.0]]])
lens = geometry.intrinsics_matrix(torch.tensor([500.0]), 480, 640)
before, after = geometry.project(point, lens)[0], geometry.project(point - torch.tensor([0.1, 0.0, 0.0]), lens)[0]
assert torch.allclose(after - before, torch.tensor([-25.0, 0.0]), atol=1e-3)
print("3. 500 * 0.1 / 2 = 25 px, to the left")

# %% [markdown]
# Next: [01 · Curate](01_curate.ipynb), where raw videos become shots. In a hurry to see your own video?
# [11 · Your video](11_your_video.ipynb)
