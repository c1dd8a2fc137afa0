# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 09 · Baselines: what a figure must beat
#
# **Goal.** Measure, by the protocol of notebook 07, predictors that never look at a pixel, and train the same network
# WITH ground truth on the same clips: the price of having no labels.
#
# **Prerequisites.** Notebooks 02 (the frame stride), 03 (the ceiling starts from it) and 07 (the protocol).
#
# **Inputs.** The truth of the training split (nothing else may read it); the embedded test split; real sequences where
# they are on this machine.
#
# **Outputs.** `results/baselines/metrics.json` (`ROW-SET` blocks), `figures/`.
#
# **Time and memory.** About 5 minutes on 2 cores, 2 GB, most of it for the ceiling. Smoke: seconds.
#
# **The number you should get.** Constant depth: an AbsRel of more than 0.4 on `embedded_test`; on the real rooms, where they are, 0.25 to 0.31.

# %% tags=["parameters"]
seed = 0  # of the training of the supervised control; the bootstrap draws the same clips each time
threads = 2  # cores of the reference machine
data = "data"  # the embedded corpus
sequences = "../shared/data/sequences"  # real sequences; left out where the folder is absent
max_frames = 0  # frames of each clip; 0 takes all, a smoke run takes few
max_clips = 0  # clips of each set, spread over it; 0 takes all
steps = 800  # of the ceiling: those of stage 2, and as many again for the student's distillation, which takes about as long
images = 12  # images a step, as in stage 2
learning_rate = 0.001  # as in stage 2

# %%
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from IPython.display import Markdown

from ss3d_lib import baselines, ceiling, evaluate, joint, labels, plots, report
from ss3d_lib.checkpoints import load_model, save_model
from ss3d_lib.datasets import iterate_embedded
from ss3d_lib.files import write_json
from ss3d_lib.training import Plan, fingerprint, train

torch.set_num_threads(threads)
plots.use_style()
out = Path("results/baselines")
figures = out / "figures"
figures.mkdir(parents=True, exist_ok=True)

# %% [markdown]
# ## What the training truth says on average
# The mean inverse-depth map is what most networks learn first: the ground is near, the horizon is far. Each map is
# divided by its median before the average; one map per aspect ratio. The constant focal length is the one with the
# least mean relative error, in lengths of the picture's longer side.
#
# **Predict:** which part of the picture is the nearest on average?

# %%
prior = baselines.fit_prior(iterate_embedded(data, "train"))
print(f"best constant focal length {prior.focal_share:.3f} of the longer side; direction {prior.direction.round(2)}")
plots.save_figure(plots.inverse_depth_maps(prior.inverse_depth), figures / "mean_disparity.png")

# %% [markdown]
# The mean map must be nearer below than above, or the corpus is upside down:

# %%
for aspect, inverse in prior.inverse_depth.items():
    third = len(inverse) // 3
    print(f"{aspect}: inverse depth below / above = {inverse[-third:].mean() / inverse[:third].mean():.2f}")
    assert np.isfinite(inverse).all() and inverse.min() > 0
assert 0.2 < prior.focal_share < 3

# %% [markdown]
# ## Six predictors that never look
# `identity_motion` says that nothing moves, `constant_motion` that every camera drives forward, `constant_direction`
# that it moves as the average training camera does. A zero translation has no direction; it counts as 90 degrees.

# %%
rows = baselines.trivial_baselines(prior)
sets = {
    **evaluate.load_sets("embedded_test", data, sequences, max_frames, max_clips),
    **evaluate.load_sets("sequences", data, sequences, max_frames, max_clips),
}
strides = {
    (name, clip.name): stride
    for name, clips in sets.items()
    for clip, stride in zip(clips, evaluate.choose_strides(clips, threads))
}
measured = {}
for name, clips in sets.items():
    for row, predict in rows.items():
        stride_of = lambda clip, name=name: strides[name, clip.name]
        results = evaluate.evaluate_set(clips, predict, stride_of, len(clips), f"{row} on {name}")
        for key, figures_of_set in evaluate.split_metrics(name, results).items():
            measured[f"{row}-{key}"] = figures_of_set

# %%
table = {}
for key, figures_of_set in measured.items():
    row, _, name = key.partition("-")
    table.setdefault(row, {})[name] = figures_of_set
Markdown("\n\n".join(report.set_table(table, name) for name in sets))

# %% [markdown]
# "Always forward" is right to a degree or two on a forward drive: there, a good direction error shows nothing. And a
# straight line, aligned by Sim(3), is within a few percent of the path of a short, smooth shot: `ate_sim3` of short
# shots must be read against `constant_motion`, not against 0.

# %%
by_domain = pd.DataFrame(
    {
        name.removeprefix("embedded_test_"): {key: figures_of_set.get(key) for key in ("dir_deg", "rot_deg")}
        for name, figures_of_set in table["constant_motion"].items()
        if name.startswith("embedded_test_") and "_kind_" not in name
    }
).T
by_domain.round(2)

# %%
columns = {key: (title, factor) for key, (title, factor, _) in report.COLUMNS.items()}
for name in sets:
    of_set = {row: table[row][name] for row in rows}
    display(plots.save_figure(plots.set_bars(of_set, columns, name), figures / f"{name}.png"))
write_json(out / "metrics.json", measured)

# %% [markdown]
# ## A ceiling: the same network, told the truth
# Same clips, same evidence, same augmentation, about the seconds of stage 2 and distillation; only the target is the true depth of the
# training videos. What it is better by is the price of having no labels; notebook 07 measures it. At this budget that price is
# about nothing: the network reads the same evidence from the clip, and few training frames have a true depth.

# %%
labelled = ceiling.labelled_shots(data, Path("results"), threads)
model = load_model("results/stage1/model.safetensors")
loss = lambda rng: labels.supervised_loss(model, labelled, images, joint.Terms(), rng)
plan = Plan(steps, learning_rate=learning_rate, seed=seed)
depends = fingerprint(model, [one.shot for one in labelled], images)
history = train(model.depth_net, loss, plan, ".scratch/baselines", "ceiling", fingerprint=depends)
save_model(
    model, "results/baselines/supervised_ceiling.safetensors", {"stage": "baselines", "steps": steps, "seed": seed}
)
plots.save_figure(
    plots.loss_curves({"L1 of log depth": history.triangulation.to_numpy()}, "ceiling"), figures / "ceiling.png"
)

# %% [markdown]
# ## Recap
# - The mean map, a constant focal length and "forward" are strong on some sets; print them beside every figure.
# - Baselines read the training truth only: a constant tuned on the test split would be a cheat.
#
# ## Exercises
# 1. Which constant has the least mean relative error for focal lengths 0.5, 1 and 1.2? Guess, then run.
# 2. Scaling the mean-disparity map by 7 changes which metrics?

# %% tags=["solution"]
best = baselines.best_constant(np.array([0.5, 1.0, 1.2]))
assert best == 0.5  # off by 0, 50 % and 58 %, a mean of 36 %; the median, 1, is off by 100 %, 0 and 17 %: 39 %
print(f"best constant {best}, not the median")

# %% tags=["solution"]
from ss3d_lib import metrics

depth, guess = np.linspace(1, 9, 64).reshape(8, 8), np.linspace(2, 5, 64).reshape(8, 8)
for alignment, changes in (("median", False), ("affine", False), ("metric", True)):
    errors = [metrics.depth_metrics(s * guess, depth, alignment)[f"absrel_{alignment}"] for s in (1, 7)]
    assert (abs(errors[0] - errors[1]) > 1e-9) == changes

# %% [markdown]
# Next: [10 · Compare](10_compare.ipynb)
