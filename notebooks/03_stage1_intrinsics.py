# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 03 · Stage 1: intrinsics first
#
# **Goal.** Learn the focal length and the motion of the camera before any depth: first measured from optical flow, shot
# by shot, then learnt by the network, which must match frames and read the focal length off its own matches.
#
# **Prerequisites.** Notebooks 00 (conventions) and 02 (flow, score).
#
# **Inputs.** `results/curate/frames/`, `results/score/scores.csv`, `results/score/flow/`. No label.
#
# **Outputs.** `results/stage1/model.safetensors` (matcher and focal head are trained, depth is not), `cameras/SHOT.npz`
# (focal length, residual curves and motions of every shot), `figures/`, `metrics.json`.
#
# **Time and memory.** Default: about 5 minutes on 2 cores, 3 GB. Smoke: about 20 s.
#
# **The number you should get.** A coarse matching error (over 1, 2 and 4 strides; the coarse grid is 8 px wide) that falls to
# about 14 px, from where Lucas-Kanade finds the rest of the way, and soft labels whose entropy spreads from nearly 0 (certain) to
# nearly 1 (cannot know: 0.96 is that of ordinary cameras). What they are worth against the truth, notebook 07 says.

# %% tags=["parameters"]
seed = 0  # of initial weights and batches
threads = 2  # cores of the reference machine
size = "tiny"  # of the network: tiny, base, paper (table below), or any timm encoder's name; two cores train tiny in minutes
sharpness = 400.0  # of the soft labels; of 100 to 3000 its 80 % intervals came nearest to 80 % on validation
matcher_steps = 130  # the coarse error is flat from there on
matcher_pairs = 8  # frame pairs a step: fills both cores
refined_pairs = 2  # of these, pairs refined to learn how far a match can be trusted; Lucas-Kanade is the dear part
matcher_rate = 0.002  # learning rate of the matcher; twice this diverged
head_steps = 600  # of the focal head: milliseconds each
head_clips = 64  # soft labels a step
head_rate = 0.002  # learning rate of the focal head
window = 0  # so many shots are at hand at a time, streamed from tar shards; 0: all of them

# %%
import hashlib
import shutil
from pathlib import Path

import numpy as np
import torch

from ss3d_lib import camera_losses, intrinsics, plots, streaming, twoview
from ss3d_lib.checkpoints import save_model
from ss3d_lib.data import frames_tensor, step_of
from ss3d_lib.files import write_json
from ss3d_lib.models import ClipNet
from ss3d_lib.training import Plan, fingerprint, train

torch.set_num_threads(threads)
torch.manual_seed(seed)
plots.use_style()
out = Path("results/stage1")
figures = out / "figures"

# %% [markdown]
# ## Why it can work, and when it cannot
# Take random points in space, move the camera, and keep only where the points were seen. For every candidate focal
# length, the best motion is found and the epipolar residual that is left is noted (`twoview.residual_curves`).
#
# **Predict:** for which of these motions does the curve have a clear minimum?


# %%
def see(points, rotation_rad, translation, focal_px=150.0, noise_px=0.1):
    """Matches of points (M, 3) seen before and after a motion, relative to the image centre, with noise."""
    moved = points @ twoview.so3_exp(torch.tensor(rotation_rad)).T + torch.tensor(translation)
    both = [focal_px * x[:, :2] / x[:, 2:] for x in (points, moved)]
    return [(x + noise_px * torch.randn(x.shape))[None] for x in both]


torch.manual_seed(seed)
depth = 2 + 6 * torch.rand(400)
cube = torch.stack([(torch.rand(400) - 0.5) * 1.4 * depth, (torch.rand(400) - 0.5) * 0.9 * depth, depth], dim=1)
wall = torch.stack([cube[:, 0], cube[:, 1], torch.full_like(depth, 5.0)], dim=1)
cases = {
    "turn and move": see(cube, [0.02, 0.12, 0.01], [0.4, 0.05, 0.1]),
    "move only": see(cube, [0.0, 0.0, 0.0], [0.4, 0.05, 0.1]),
    "turn only": see(cube, [0.02, 0.12, 0.01], [0.0, 0.0, 0.0]),
    "a flat wall": see(wall, [0.02, 0.12, 0.01], [0.4, 0.05, 0.1]),
}

# %%
candidates = twoview.focal_candidates(240.0)
curves = {
    name: twoview.residual_curves(p, q, torch.ones(1, 400), candidates)[0][0].numpy() for name, (p, q) in cases.items()
}
plots.save_figure(plots.residual_curves(candidates.numpy() / 240, curves, true=150 / 240), figures / "when.png")

# %%
best = float(candidates[int(curves["turn and move"].argmin())])
assert abs(best / 150 - 1) < 0.15, "turning while moving must show the focal length"
assert np.ptp(curves["move only"]) < 0.5 * np.ptp(curves["turn and move"]), "pure translation must not"

# %% [markdown]
# A camera that only moves sees the same lines under any focal length: the curve is flat, and the answer must be "I cannot
# know". Turning while moving breaks the tie.
#
# ## A whole clip knows more than its pairs: a soft label
# Pairs of real frames are noisy, and their curves flat. What a clip's pairs share, its points and its cameras, ties them
# together: under each candidate, bundle adjustment (`models.bundle`) finds the cameras of all frames and the depth of a grid
# of points in each, from the cached flow at one, two and four strides. The posterior is
# $p(f) \propto p_0(f) \exp(-\beta\, r(f))$ with the mean robust reprojection error $r$ that is left, and what is known before a
# clip is seen: $p_0$, that ordinary cameras have about 0.8 longer sides, within a factor of 1.6. All kept shots are learnt from,
# also those that show little of their focal length: their label is as wide, and so the network learns when it cannot know.
#
# More shots than memory holds are streamed (`window`): packed into tar shards of a few shots, which are read in an order of the
# seed's, so many shots at hand at a time, of which one gives way to the next after every step (`ss3d_lib.streaming`). It takes
# as many steps as there are shots to see each of them. What is drawn and measured here is then of those of the first step, which
# stay in memory beside the others.

# %%
table = Path("results/score/scores.csv")
tag = hashlib.sha256(table.read_bytes() + str(sharpness).encode()).hexdigest()[:12]
work = Path(".scratch/stage1")
errors = intrinsics.estimate_all("results/curate", "results/score", str(work / f"cameras-{tag}"), sharpness, threads)
assert not errors, f"{len(errors)} shots without cameras, such as {list(errors.values())[:3]}"
shutil.copytree(work / f"cameras-{tag}", out / "cameras", dirs_exist_ok=True, ignore=shutil.ignore_patterns(".*"))  # a dot: half written
folders = ("results/curate", "results/score", out / "cameras", None)
pool = streaming.open_pool(*folders, window, work / "shards", seed, threads)
shots = pool.at(0).shots
print(f"{pool.count} shots; at hand {len(shots)} with {sum(len(shot.frames) for shot in shots)} frames")

# %%
by_entropy = sorted(
    shots, key=lambda shot: -np.sum(np.exp(shot.cameras.log_probability) * shot.cameras.log_probability)
)
shown = [by_entropy[index] for index in np.linspace(0, len(shots) - 1, min(5, len(shots))).astype(int)]
measured = {shot.name: shot.cameras.curves.mean(0) for shot in shown}
share = twoview.focal_candidates(1.0).numpy()
plots.save_figure(plots.residual_curves(share, measured), figures / "curves.png")

# %%
focal_share = np.array([shot.cameras.focal_px / max(shot.size) for shot in shots])
entropy = np.array([-np.sum(np.exp(s.cameras.log_probability) * s.cameras.log_probability) for s in shots]) / np.log(
    len(share)
)
groups = {
    "certain half": focal_share[entropy <= np.median(entropy)],
    "other half": focal_share[entropy > np.median(entropy)],
}
plots.save_figure(plots.histogram(groups, "focal length / longer image side"), figures / "focals.png")

# %% [markdown]
# ## The network learns to match
# At test time there is no cached flow: the network matches frames itself. A softmax over feature similarities gives a coarse
# flow (supervised here by the cached, label-free one), Lucas-Kanade steps inside the forward pass make it sub-pixel, and a
# small head learns how large the epipolar error of a match will be.
#
# Matcher and focal head are the same in every `size`; what differs is the encoder of the depth network, which stage 2 trains:
#
# | `size` | encoder, from random weights | parameters in all | time for the depth of 8 frames, `tiny` being 1 |
# |---|---|---|---|
# | `tiny` | ResNet-10-T | 6.0 million | 1 |
# | `base` | ResNet-18 | 12.2 million | 1.3 |
# | `paper` | ViT-S: 6 blocks within a frame, 6 over the clip, in turns (`models.vit`) | 22.4 million | 3.0 |
#
# The third has the paper's kind of trunk (VGGT's), not its width. Stage 2 draws images one by one, so what frames can tell each
# other in this trunk is left to a training that draws clips.

# %%
torch.manual_seed(seed)
model = ClipNet(size)
plan = Plan(matcher_steps, learning_rate=matcher_rate, seed=seed)


def matching(rng):
    """Loss of one batch of frame pairs, drawn from the shots of this step in proportion to their score."""
    now = pool.at(step_of(rng))
    return camera_losses.matcher_loss(model, now.shots, now.scores, matcher_pairs, refined_pairs, rng)


depends = fingerprint(model, shots, window, pool.stamp, sharpness, matcher_pairs, refined_pairs)
history = train(model.matcher, matching, plan, work / "matcher", "matcher", fingerprint=depends)
titles = {"flow": "cross-entropy of the match", "coarse_error_px": "its error, px", "trust": "-log likelihood of the trust"}
series = {title: history[name].to_numpy() for name, title in titles.items()}
plots.save_figure(plots.loss_curves(series, "matcher"), figures / "matcher.png")


# %%
def match_panel(shot, start=0):
    """First frame, length of the refined flow and its predicted error, for a pair one stride apart."""
    pair = frames_tensor([shot.frames[start], shot.frames[start + shot.stride]])
    with torch.no_grad():
        found = model.matcher(pair[None], (1,))
    sigma = found.sigma_px[0].clamp(max=4).numpy()
    return {
        "frame": shot.frames[start],
        "flow, px": twoview.length(found.flow[0]).numpy(),
        "predicted error, px": sigma,
        "valid": found.valid[0].numpy(),
    }


landscape = [shot for shot in shots if shot.size == shots[0].size][:3]
plots.save_figure(plots.map_panel([match_panel(shot) for shot in landscape]), figures / "matches.png")

# %% [markdown]
# ## The network learns what a residual curve means
# The focal head sees the curve of a short clip of a shot and must predict the posterior of the whole shot. It learns one
# thing: how sharp the curve of such a clip deserves to be. Where the curve is flat, or rises hardly more than noise makes
# it (`FLAT_RANGE`), little is left but what ordinary cameras are like; a head that could also favour candidates did,
# and was no better on validation. (Labels are wider than the errors. So what the head has learnt is made sharper when it is used:
# `SURER`, chosen on validation. And what the whole pictures tell afterwards makes it narrower: `models.refinement.REFINED`.)

# %%
head_loss = lambda rng: camera_losses.focal_head_loss(model, pool.at(step_of(rng)).shots, head_clips, rng)
head_plan = Plan(head_steps, learning_rate=head_rate, seed=seed, save_every=200)
depends = fingerprint(model.focal_head, shots, window, pool.stamp, sharpness, head_clips)
head = train(model.focal_head, head_loss, head_plan, work / "head", "focal head", fingerprint=depends)
head_series = {name: head[name].to_numpy() for name in ("loss", "entropy")}
plots.save_figure(plots.loss_curves(head_series, "focal head"), figures / "focal_head.png")

# %%
with torch.no_grad():
    belief = model.focal_head(
        torch.stack([torch.from_numpy(shot.cameras.curves).mean(0) for shot in shots]),
        torch.stack([torch.from_numpy(shot.cameras.summaries).mean(0) for shot in shots]),
        twoview.focal_candidates(1.0),
    )
known = {"soft label": entropy, "focal head": belief.entropy.numpy()}
plots.save_figure(plots.histogram(known, "entropy: 0 is certain, 1 knows nothing"), figures / "entropy.png")

# %%
for part in model.parameters():
    assert torch.isfinite(part).all()
save_model(model, out / "model.safetensors", {"stage": "stage1", "steps": matcher_steps, "seed": seed})
tail = history.tail(max(1, len(history) // 10))
write_json(
    out / "metrics.json",
    {
        "shots": pool.seen(matcher_steps),
        "coarse_error_px": tail.coarse_error_px.mean(),
        "flow_loss": tail.flow.mean(),
        "head_loss": head.loss.tail(50).mean(),
        "entropy_label": float(entropy.mean()),
        "entropy_head": float(belief.entropy.mean()),
    },
)

# %% [markdown]
# ## Recap
# - Focal length and motion can be measured without depth; regressing them does not generalise on a small corpus.
# - The soft label of a shot says how much it knows. Pure translation, planes and still cameras know nothing of their own.
# - Sub-pixel matches carry the focal length: learnt features find the place, Lucas-Kanade refines it.
#
# ## Exercises
# 1. How much noise on the matches can the focal length bear? Double it until the answer is no better than a constant's (0.25).
# 2. Add a second pair of frames with another turn to "turn and move". Does the pooled curve get sharper?

# %% tags=["solution"]
found = {}
for noise_px in (0.1, 0.5, 1.0, 2.0, 4.0, 8.0):
    torch.manual_seed(seed)
    drawn = [see(cube, [0.02, 0.12, 0.01], [0.4, 0.05, 0.1], noise_px=noise_px) for _ in range(12)]
    curves_of = twoview.residual_curves(*(torch.cat(pair) for pair in zip(*drawn)), torch.ones(12, 400), candidates)[0]
    found[noise_px] = float((candidates[curves_of.argmin(1)] / 150 - 1).abs().mean())
print("mean relative error at so many px of noise:", {noise: round(error, 3) for noise, error in found.items()})
assert found[0.1] < 0.25 < found[8.0], "little noise must leave a focal length, much must not"

# %% tags=["solution"]
torch.manual_seed(seed)
other = see(cube, [0.1, -0.05, 0.02], [-0.2, 0.3, 0.1])
both = [torch.cat(pair) for pair in zip(cases["turn and move"], other)]
pooled = twoview.residual_curves(*both, torch.ones(2, 400), candidates)[0].mean(0)
assert abs(float(candidates[int(pooled.argmin())]) / 150 - 1) < 0.1

# %% [markdown]
# Next: [04 · Stage 2: joint](04_stage2_joint.ipynb)
