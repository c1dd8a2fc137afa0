# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 04 · Stage 2: depth, with motion and focal length already known
#
# **Goal.** Train the depth network on what the shots' own motion triangulates, from easy shots to all of them, and put it
# together with stage 1 into one network that does everything in one forward pass.
#
# **Prerequisites.** Notebook 03.
#
# **Inputs.** `results/curate/frames/`, `results/score/`, `results/stage1/` (weights, and the cameras of every shot).
#
# **Outputs.** `results/stage2/model.safetensors`, `stereo/SHOT.npz` (depth evidence of its frames), `figures/`,
# `metrics.json`.
#
# **Time and memory.** Default: about 8 minutes on 2 cores, 4 GB. Smoke: about 20 s.
#
# **The number you should get.** A triangulation loss (mean |log ratio| of depth) that falls by a third from its first
# steps: the evidence that the network is given is good already. Against ground truth, notebook 07 measures.

# %% tags=["parameters"]
seed = 0  # of batches and augmentation
threads = 2  # cores of the reference machine
steps = 400  # what 2 minutes allow; the loss still falls slowly
images = 12  # images a step: the largest batch that did not slow a step per image
learning_rate = 0.001  # AdamW; 0.002 was no better
triangulation = 1.0  # weight of the depth term: L1 in log depth
uncertainty = 0.1  # weight of the likelihood that trains the standard error: it hardly moves the depth
smoothness = 0.02  # edge-aware (Godard et al. 2017, eq. 3, whose 0.001 is for disparity); more washes out thin things
photometric = 0.0  # off: no better by more than the seeds differ (row "flow and photometric" of notebook 14), and dearer
consistency = 0.0  # off: what the sweep confirms is consistent already (row `consistency` of notebook 14)
single_image = 0.2  # share of images without any evidence: keeps the single-image skill
min_crop = 0.7  # smallest random crop, its aspect ratio changed by up to 15 %; focal lengths vary with it
easy_share = 0.5  # the curriculum starts with this share of the shots, the easiest
curriculum = 0.5  # share of the steps after which all shots take part
window = 0  # so many shots are at hand at a time, streamed from tar shards (notebook 03); 0: all of them

# %%
import hashlib
import shutil
from pathlib import Path

import numpy as np
import torch

from ss3d_lib import joint, plots, stereo, streaming
from ss3d_lib.checkpoints import load_model, save_model
from ss3d_lib.curriculum import sampling_weights
from ss3d_lib.data import generator, step_of
from ss3d_lib.files import write_json
from ss3d_lib.losses import log_depth_error, resize_map
from ss3d_lib.models.triangulation import as_channels
from ss3d_lib.training import Plan, fingerprint, train

torch.set_num_threads(threads)
torch.manual_seed(seed)
plots.use_style()
out = Path("results/stage2")
figures = out / "figures"
terms = joint.Terms(triangulation, uncertainty, smoothness, photometric, consistency, single_image, min_crop)

# %% [markdown]
# ## What depth is learnt from
# Flow says where a pixel went, stage 1 how the camera moved: together they triangulate an inverse depth, up to scale, where
# there is parallax. A pixel is seen in up to six other frames (1, 2, 4 strides, both ways); its depth is the one that fits
# them best, and a match that disagrees loses its say. The network gets what a part of the pairs says (drawn
# once for every frame), with random holes, or none; all of it is the target.
#
# **Predict:** where in these pictures is there no evidence, and why?
#
# Two things speak of depth: the matches, triangulated, and a **plane sweep** (`models.sweep`): every pixel tries 48 inverse
# depths and keeps the one under which the other frames look like it, and like its neighbours' choice. Matches are exact
# where flow found the way; the sweep needs no way to be found, only cameras, and finds what is thin, near or repeated. It looks
# twice: the second time, where another frame is sure of a depth, that speaks instead of its picture.
#
# Colours are log inverse depth, bright is near, less the median of what is known; white is not known. The weight is in [0, 1],
# and so is the share that moves by itself, where matches break the epipolar geometry: the photometric terms leave it out.

# %%
cameras, tag = Path("results/stage1/cameras"), hashlib.sha256()
for file in sorted(cameras.glob("*.npz")):
    tag.update(file.read_bytes())
swept = Path(f".scratch/stage2/evidence-{tag.hexdigest()[:12]}")
errors = stereo.sweep_all("results/curate", "results/score", str(cameras), str(swept), threads)
assert not errors, f"{len(errors)} shots without a plane sweep, such as {list(errors.values())[:3]}"
shutil.copytree(swept, out / "stereo", dirs_exist_ok=True, ignore=shutil.ignore_patterns(".*"))  # a dot: half written
folders = ("results/curate", "results/score", cameras, out / "stereo")
pool = streaming.open_pool(*folders, window, Path(".scratch/stage2/shards"), seed, threads)
first = pool.at(0)
shots, scores, eases = first.shots, first.scores, first.eases
print(f"{pool.count} shots; at hand {len(shots)} with {sum(len(shot.frames) for shot in shots)} frames that have evidence")

# %%
batch = joint.draw_batch(shots, scores, 3, terms, generator(seed, 0))


def evidence_panel(batch, index):
    """Picture, given and target log inverse depth (median 0), the target's weight, the sweep without holes, and what moves."""
    masked = lambda e: np.where(e.weight[index] > 0.1, e.log_inverse_depth[index], np.nan)
    return {
        "picture": batch.frames[index].permute(1, 2, 0).numpy(),
        "given": masked(batch.given),
        "target": masked(batch.target),
        "its weight": batch.target.weight[index].numpy(),
        "sweep, all of it": batch.target.guess[index].numpy(),
        "moves by itself": batch.target.moving[index].numpy(),
    }


plots.save_figure(plots.map_panel([evidence_panel(batch, index) for index in range(3)]), figures / "evidence.png")

# %%
assert torch.isfinite(batch.target.log_inverse_depth).all() and 0 < float(batch.target.weight.mean()) <= 1
assert float(batch.given.weight.mean()) < float(batch.target.weight.mean()), "the network must see less than its target"
print(f"target known on {float((batch.target.weight > 0.3).float().mean()):.0%} of the pixels")

# %% [markdown]
# ## Every term, drawn
# What each term finds at every pixel (bright is much) where depth is the evidence itself: `triangulation` is then the
# gap that the sweep leaves to the matches' depth; `smoothness` shows where steps in depth are free. `photometric` compares the
# frame with its neighbours, warped (minimum reprojection, auto-mask), `consistency` its depth with theirs. The gradient of
# these two reaches a pixel or two: they can refine what triangulation found, no more. (`uncertainty` is the likelihood of the
# same gap under the predicted standard error, which is drawn below.)

# %%
everything = joint.Terms(photometric=1.0, consistency=1.0, min_crop=1.0)
drawn = joint.draw_batch(shots, scores, 3, everything, generator(seed + 2, 0))
panels = joint.term_maps(drawn.target.guess, drawn)
rows = [
    {"picture": drawn.frames[index].permute(1, 2, 0).numpy()} | {name: map_[index].numpy() for name, map_ in panels.items()}
    for index in range(3)
]
plots.save_figure(plots.map_panel(rows), figures / "terms.png")

# %% [markdown]
# ## The curriculum
# Shots are drawn in proportion to their score; at first only from the easiest half, at the end from all. Easy is what has a high
# score, moves slowly and is well lit (`curriculum.ease`): the paper names extreme light and fast motion as its limits, so such
# shots enter late, but they are not thrown away. One readable function: `curriculum.sampling_weights(scores, eases, progress, easy_share)`.
# (Where shots are streamed, `window`, the easiest half is that of the shots at hand.)
#
# Below, the shots in order of ease, the easiest first: at the start the hard half has no weight, and in the end every shot has that of its score.

# %%
moments = {
    f"at {share:.0%} of the steps": sampling_weights(scores, eases, share / curriculum, easy_share)[np.argsort(-eases)]
    for share in (0.0, curriculum / 2, curriculum)
}
plots.save_figure(plots.ranked_weights(moments), figures / "curriculum.png")

# %% [markdown]
# ## Training
# Log depth is compared after its free scale is taken away by a weighted median; so no term rewards a collapse of the scale.
#
# $$ L = \frac{\sum_p w_p\,\min(|\log \hat\rho_p - \log \rho_p - m|,\,1.5)}{\sum_p w_p} + 0.1\,L_{\text{uncertainty}} +
# 0.02\,L_{\text{smoothness}} + \lambda_p L_{\text{photometric}} + \lambda_c L_{\text{consistency}} + 0.001\,\overline{(\log\hat\rho)^2} $$
#
# The last term holds the free scale near 1, where the network starts; nothing else would. Evidence and target come from the same
# cameras, so that the cameras' errors show in no term; `losses.camera_error` adds them to what the standard error is trained on.

# %%
model = load_model("results/stage1/model.safetensors")
plan = Plan(steps, learning_rate=learning_rate, seed=seed)


def loss(rng):
    """Loss of one batch, drawn as the curriculum has it at this step."""
    now = pool.at(step_of(rng))
    weights = sampling_weights(now.scores, now.eases, step_of(rng) / steps / curriculum, easy_share)
    return joint.joint_loss(model, now.shots, weights, images, terms, rng)


depends = fingerprint(model, shots, window, pool.stamp, scores, eases, images, terms, easy_share, curriculum)
history = train(model.depth_net, loss, plan, ".scratch/stage2", "stage 2", fingerprint=depends)
series = {name: history[name].to_numpy() for name in ("triangulation", "uncertainty", "smoothness")}
plots.save_figure(plots.loss_curves(series, "stage 2"), figures / "training.png")

# %% [markdown]
# ## Look
# With the clip's evidence, and from the picture alone: log inverse depth again, bright is near, less its mean; and its predicted
# standard error, in log depth.
#
# (A forward pass on a whole clip does two things more. Between a quick sweep and a full one, cameras and focal length are
# refined: through the depth, whole pictures are aligned, `models.refinement`. And what its frames say of the same point is
# averaged where they nearly agree, `models.sweep.blend`.)


# %%
def predict_panel(batch, index):
    """Picture, log inverse depth with and without evidence (mean 0), and its predicted standard error, for one image."""
    with torch.no_grad():
        seen, std = model.depth_net(batch.frames[index : index + 1], as_channels(batch.target)[index : index + 1])
        blind, _ = model.depth_net(batch.frames[index : index + 1], 0 * as_channels(batch.target)[index : index + 1])
    return {
        "picture": batch.frames[index].permute(1, 2, 0).numpy(),
        "with the clip": seen[0].numpy(),
        "picture alone": blind[0].numpy(),
        "standard error": std[0].exp().numpy(),
    }


model.eval()
looked = joint.draw_batch(shots, scores, 4, joint.Terms(min_crop=1.0), generator(seed + 1, 0))
plots.save_figure(plots.map_panel([predict_panel(looked, index) for index in range(4)]), figures / "depth.png")

# %%
with torch.no_grad():
    given, _ = model.depth_net(looked.frames, as_channels(looked.given))
    error = log_depth_error(resize_map(given, looked.target.weight.shape[-2:]), looked.target)
    fit = float((error * looked.target.weight).sum() / looked.target.weight.sum())
save_model(model, out / "model.safetensors", {"stage": "stage2", "steps": steps, "seed": seed, "shots": pool.seen(steps)})
tenth = max(1, len(history) // 10)
before, after = history.head(tenth).triangulation.mean(), history.tail(tenth).triangulation.mean()
write_json(
    out / "metrics.json", {"triangulation_first": before, "triangulation_last": after, "fit_log": fit, "steps": steps}
)
print(f"triangulation loss {before:.3f} -> {after:.3f}")

# %% [markdown]
# ## Recap
# - Depth learns in minutes from what known motion triangulates; a photometric loss without it does not (notebook 12).
# - The network completes and denoises the clip's evidence, and falls back on the picture where there is none.
# - Order matters: with motions taken from an untrained depth, nothing is learnt.
#
# ## Exercises
# 1. Set `single_image = 0` and look at "picture alone" again. What did the network stop learning?
#    (Open: a training of some minutes.)
# 2. Show that the loss is blind to scale: add a constant to the predicted log inverse depth.

# %% tags=["solution"]
with torch.no_grad():
    shifted = log_depth_error(resize_map(given + 1.0, looked.target.weight.shape[-2:]), looked.target)
assert torch.allclose(shifted, error, atol=1e-4), "a constant in log depth is a scale, and scale is free"

# %% [markdown]
# Next: [05 · Experts](05_experts.ipynb)
