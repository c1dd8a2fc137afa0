# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 07 · Evaluate: one checkpoint, one protocol
#
# **Goal.** Measure ONE checkpoint, all three of its outputs (depth, ego-motion, focal length), on a set with ground
# truth, in a way that another group could repeat.
#
# **Prerequisites.** Notebook 00 (conventions) and 04 or 06, which make the checkpoints.
#
# **Inputs.** A checkpoint of `results/`; the embedded split `data/` or a folder of real sequences.
#
# **Outputs.** `results/evaluate/CHECKPOINT-SET/`: `metrics.json` (with the checkpoint's SHA-256), `clips.csv` with
# every clip's figures, `figures/`.
#
# **Time and memory.** Default: about 3 minutes for a set on 2 cores, 2 GB. Smoke: seconds.
#
# **The number you should get.** The oracle below must score 0 in everything; the model's figures are in the table at
# the end, and in the README beside the trivial baselines (notebook 09), without which no figure means anything.

# %% tags=["parameters"]
seed = 0  # every stage takes it; the bootstrap draws the same clips each time
threads = 2  # cores of the reference machine
data = "data"  # the embedded corpus
sequences = "../shared/data/sequences"  # real sequences, NAME/rgb/*.jpg; left out where the folder is absent
weights = {"student": "results/distill/student.safetensors"}  # which file each checkpoint name means
max_frames = 0  # frames of each clip; 0 takes all, a smoke run takes few
max_clips = 0  # clips of each set, spread over it; 0 takes all
checkpoint = "student"  # the row of the table; a matrix key
set = "embedded_test"  # embedded_SPLIT, or sequences for all real ones; a matrix key

# %%
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from IPython.display import Markdown

from ss3d_lib import evaluate, metrics, plots, protocol, report
from ss3d_lib.files import write_json

torch.set_num_threads(threads)
plots.use_style()
out = Path("results/evaluate") / f"{checkpoint}-{set}"
figures = out / "figures"
figures.mkdir(parents=True, exist_ok=True)

# %% [markdown]
# ## What the sets give
# A clip carries frames, intrinsics, camera-to-world poses and, for some of its frames, depth with holes: sky,
# letterbox bars and captions were never measured and never count. A set that is not on this machine is left out.

# %%
sets = evaluate.load_sets(set, data, sequences, max_frames, max_clips)
clips = [clip for members in sets.values() for clip in members]
pd.DataFrame(
    [
        {"set": name, "clips": len(members), "frames": sum(len(clip.frames) for clip in members)}
        for name, members in sets.items()
    ],
    columns=["set", "clips", "frames"],
)

# %% [markdown]
# ## Measure
# **Predict:** where will the depth be wrong, before you look at the error?
#
# The frame stride of every clip comes from its own optical flow (notebook 02), the same for every checkpoint. Depth is
# compared per image after scaling by the ratio of medians (`absrel_median`), per clip (`absrel_video`), after an affine
# fit of disparity (`absrel_affine`), and as it is (`absrel_metric`, which says how far from metres the network is).
#
# $$\text{AbsRel} = \frac{1}{P}\sum_p \frac{|s\,\hat z_p - z_p|}{z_p},\qquad s = \frac{\text{median}\,z}{\text{median}\,\hat z}$$

# %%
results = {
    name: evaluate.evaluate_checkpoint(members, weights[checkpoint], threads, name) for name, members in sets.items()
}
measured = {}
for name, of_set in results.items():
    measured |= evaluate.split_metrics(name, of_set)
identity = evaluate.file_sha256(weights[checkpoint])
write_json(out / "metrics.json", {"checkpoint": identity} | measured)
rows = pd.DataFrame([row for of_set in results.values() for row in evaluate.clip_rows(of_set)])
rows.to_csv(out / "clips.csv", index=False, float_format="%.6g")
shown_columns = ["clip", "domain", "kind", "stride", *evaluate.HEADLINE]
rows.reindex(columns=shown_columns).round(3).head(12)

# %% [markdown]
# ## Look
# Sky, thin things, what moves, and what has no texture are good guesses for where depth is wrong. Grey: no true depth.

# %%
pairs = [pair for name in sets for pair in zip(sets[name], results[name]) if pair[1].kind == "multi_view"]


def middle_maps(clip, result):
    """Picture, predicted and true depth of a clip's middle measured frame."""
    strided = clip.strided(result.stride)
    index = len(strided.depth_frames) // 2
    return strided.frames[strided.depth_frames[index]], result.answer.depth_m[0], strided.depth_m[index]


shown = [pair for pair in pairs if pair[1].answer.depth_m is not None]
shown = shown[:: max(1, len(shown) // 5)][:5]
if shown:
    columns = zip(*[middle_maps(clip, result) for clip, result in shown])
    figure = plots.depth_comparison(*columns, [result.name for _, result in shown])
    display(plots.save_figure(figure, figures / "depth.png"))

# %% [markdown]
# ## Is the ruler straight?
# What judged the network also judges an **oracle** that answers with the truth, in another scale and another world
# frame. It must get zero. Then the oracle is spoilt by a known amount, and the ruler must say so.


# %%
quarter_turn = np.array([[0.0, 0, 1, 2], [0, 1, 0, 0], [-1, 0, 0, 5], [0, 0, 0, 1]])


def oracle(clip, stretch=1.0):
    """A predictor that knows the truth of a clip: scale 1/3, a turned world; `stretch` spoils the focal length."""
    poses = quarter_turn @ clip.poses_c2w
    poses[:, :3, 3] /= 3
    return lambda frames: protocol.Answer(world_from_cam=poses, focal_px=stretch * clip.focal_px)


for clip in [clip for clip in clips if clip.kind == "multi_view"][:3]:
    right = protocol.evaluate_clip(clip, oracle(clip)).values
    assert np.median(right["rot_deg"]) < 1e-3 and np.median(right["dir_deg"]) < 1e-3 and right["ate_sim3"][0] < 1e-5
    wrong = protocol.evaluate_clip(clip, oracle(clip, stretch=1.1)).values
    assert abs(wrong["focal_relerr"][0] - 0.1) < 1e-9
print("the oracle gets 0; a focal length 10 % too long gets 0.100")

# %%
tables = {checkpoint: {name: values for name, values in measured.items()}}
Markdown("\n\n".join(report.set_table(tables, name) for name in sets) or "No set of this name is on this machine.")

# %%
Markdown("\n\n".join(report.domain_table(tables, checkpoint, name) for name in sets))

# %% [markdown]
# ## Trajectories
# Chained poses drift; `ate_sim3` is the RMS distance from the truth after the best similarity (Umeyama 1991), as a
# share of the path. Seen from above:

# %%
def aligned_centres(clip, result):
    """Predicted camera centres (T, 3) brought onto the true ones, and those."""
    true_m = clip.poses_c2w[:: result.stride, :3, 3]
    centres = result.answer.world_from_cam[:, :3, 3]
    return metrics.umeyama(centres, true_m).apply(centres), true_m


drawn = [pair for pair in pairs if "ate_sim3" in pair[1].values]
drawn = drawn[:: max(1, len(drawn) // 8)][:8]
if drawn:
    lines = zip(*[aligned_centres(clip, result) for clip, result in drawn])
    names = [f"{result.name}: {100 * result.values['ate_sim3'][0]:.1f} %" for _, result in drawn]
    display(plots.save_figure(plots.trajectories(*lines, names), figures / "trajectories.png"))

# %% [markdown]
# ## Focal length, and whether the network knows what it does not know
# The interval promises to hold the truth in 80 % of the clips. On shots without parallax or rotation there is nothing
# to see, and it should be wide.

# %%
known = [(clip, result) for clip, result in pairs if "focal_relerr" in result.values]
if known:
    widths = np.array([clip.frames.shape[2] for clip, _ in known], dtype=float)
    share = np.array([result.answer.focal_px for _, result in known]) / widths
    interval = np.array([result.answer.focal_interval_px for _, result in known]) / widths[:, None]
    truth = np.array([clip.focal_px for clip, _ in known]) / widths
    names = [clip.name if clip.domain == "real" else clip.domain for clip, _ in known]
    display(plots.save_figure(plots.focal_scatter(truth, share, interval, names), figures / "focal.png"))
for name in measured:
    held, wider = (measured[name].get(key) for key in ("focal_covered", "focal_width_ratio"))
    if held is not None:
        unseen = f"; where there is nothing to see it is {wider:.1f} times wider" if wider is not None else ""
        print(f"{name}: the interval holds the truth in {held:.0%} of the clips{unseen}")

# %%
pooled = {
    name: np.concatenate([r.values.get("dir_deg", np.array([])) for r in of_set if r.kind == "multi_view"])
    for name, of_set in results.items()
}
if pooled:
    figure = plots.error_curves(pooled, "error of the direction of translation, degrees", 60)
    display(plots.save_figure(figure, figures / "direction.png"))

# %% [markdown]
# ## Recap
# - One predictor gives all three outputs; the table refuses rows whose sets were measured with different files.
# - The alignment is part of a metric's name. `absrel_median` and `absrel_affine` must never share a column.
# - A direction error needs a direction: pairs with a tiny true baseline are left out, and the rule is written down.
#
# ## Exercises
# 1. A network that outputs the inverse of depth by mistake: does `absrel_affine` forgive it? Guess, then run.
# 2. Why is `ate_sim3` of a camera that never moves undefined here, rather than 0?

# %% tags=["solution"]
depth = np.linspace(1, 10, 500).reshape(20, 25)
for alignment in ("median", "affine"):
    error = metrics.depth_metrics(1 / depth, depth, alignment)[f"absrel_{alignment}"]
    assert error > 0.2  # the affine map of 1 / (1 / z) = z cannot make 1 / z of it
    print(f"inverse depth taken for depth, {alignment}: {error:.2f}")

# %% tags=["solution"]
standing = np.tile(np.eye(4), (5, 1, 1))
assert metrics.path_length_m(standing) == 0  # a share of a path of length 0 says nothing
assert "ate_sim3" not in protocol.motion_values(standing, standing)

# %% [markdown]
# Next: [08 · Fine-tune](08_finetune.ipynb)
