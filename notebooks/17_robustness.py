# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 17 · Bad light, blur and fast motion: where does it break?
#
# **Goal.** Show the released network pictures that are too dark, too bright, blurred, or too far apart, in grades, and see how
# far off depth, focal length and direction are at each.
#
# **Prerequisites.** Notebook 07 (the protocol), 02 (why the stride is chosen on the pictures themselves).
#
# **Inputs.** `results/release/student.safetensors` (`make data` fetches it); the embedded validation split, whose truth is read
# for judging only.
#
# **Outputs.** `results/robustness/metrics.json` (the figures at each level) and `figures/`.
#
# **Time and memory.** Default: about 10 minutes on 2 cores with AVX-512, 20 without, 4 GB; so `dvc repro` does not run it, but
# `dvc repro ablations/dvc.yaml:robustness` does. Stopped at any moment, the same command goes on. Smoke: half a minute.
#
# **The number you should get.** At a gain of 0.5 depth is within a few per cent of what it is on the intact pictures: nothing here
# looks at brightness itself. What a blur of 4 px does is for you to predict.

# %% tags=["parameters"]
seed = 0  # of the bootstrap
threads = 2  # cores of the reference machine: as many clips at a time
data = "data"  # the embedded corpus
max_frames = 0  # frames of each validation clip; 0 takes all, a smoke run takes few
max_clips = 0  # validation clips, spread over the split; 0 takes all: 26 of them are multi-view
levels = {
    "gain": [0.1, 0.25, 0.5, 2.0, 4.0],  # exposure: night, to a washed-out picture
    "gamma": [0.4, 2.5],  # mid tones lifted and crushed; black and white stay
    "blur_px": [1.0, 2.0, 4.0],  # of 144 rows: out of focus, or the smear of a fast motion
    "skip": [2, 4, 8],  # frames: a camera so many times as fast
}  # kind: levels; graded, so that one sees where it breaks

# %%
from pathlib import Path

import numpy as np
import pandas as pd
import seaborn as sns
import torch

from ss3d_lib import ablations, plots, report
from ss3d_lib.degradations import DEGRADED, degrade
from ss3d_lib.files import write_json

torch.set_num_threads(threads)
plots.use_style()
results, out, work = Path("results"), Path("results/robustness"), Path(".scratch/robustness")
figures = out / "figures"

# %% [markdown]
# ## The pictures
# Three clips, intact and at the ends of each scale. **Predict:** what is worse, a tenth of the light or a blur of 2 px?

# %%
clips = ablations.judges(data, max_frames, max_clips)
ends = {(kind, end(levels[kind])) for kind in DEGRADED if kind in levels for end in (min, max)}
panels = [
    {"intact": clip.frames[0]} | {f"{kind} {level:g}": degrade(clip, kind, level).frames[0] for kind, level in sorted(ends)}
    for clip in [clip for clip in clips if clip.frames.shape == clips[0].frames.shape][:3]
]
plots.save_figure(plots.map_panel(panels), figures / "degraded.png")

# %% [markdown]
# ## The figures
# Medians over clips, and bands in which the median of other clips like these would lie (95 %, bootstrap). One checkpoint, so here
# is no spread over seeds. Strides are chosen on the bad pictures: a camera that is twice as fast gets half the stride, until there
# is no smaller one. With `skip` fewer images are judged, and a clip of 20 frames has 3 left at 8.

# %%
released = str(results / "release/student.safetensors")
found = pd.DataFrame(ablations.robustness(clips, levels, released, work, threads))
titles = {key: report.COLUMNS[key][0] for key in ablations.KEYS}
long = found.rename(columns=titles).melt(["kind", "level"], list(titles.values()), var_name="error")
grid = sns.relplot(
    long, x="level", y="value", col="kind", row="error", kind="line", marker="o", height=1.8, aspect=1.3,
    estimator="median", seed=seed, clip_on=False, facet_kws={"sharex": "col", "sharey": "row", "margin_titles": True},
)  # fmt: skip
grid.set(ylim=(0, None), ylabel="").set_titles(row_template="{row_name}", col_template="{col_name}")
units = {"gain": ("times the light", "log"), "gamma": ("exponent", "log"), "blur_px": ("px of 144 rows", "linear"), "skip": ("frames", "linear")}
for kind, axis in zip(grid.col_names, grid.axes[-1]):
    ticks = sorted(found.level[found.kind == kind])
    axis.set(xlabel=units[kind][0], xscale=units[kind][1])
    axis.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axis.minorticks_off()
plots.save_figure(grid.figure, figures / "robustness.png")

# %%
write_json(out / "metrics.json", ablations.graded_medians(found.to_dict("records")))
medians = found.groupby(["kind", "level"])[list(ablations.KEYS)].median()
medians.rename(columns=titles).round(3)

# %% [markdown]
# ## Recap
# - Degradations are graded, because what matters is where it breaks, not that it does.
# - Matches carry all the rest: what leaves them alone (light) leaves the geometry alone, what takes them away (blur) does not.
#
# ## Exercises
# 1. A gain of 0.5 and a gamma of 2 both darken. Which of them merges more of the 256 grey levels, and where?
# 2. At which level of each kind is AbsRel first more than a quarter above that of the intact pictures?

# %% tags=["solution"]
levels_of = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1).repeat(3, -1)
darker = {kind: np.unique(DEGRADED[kind](levels_of, level)) for kind, level in (("gain", 0.5), ("gamma", 2.0))}
print("grey levels left:", {kind: len(left) for kind, left in darker.items()})
assert len(darker["gain"]) < len(darker["gamma"]), "a gain merges pairs everywhere, gamma only shadows: and keeps white"

# %% tags=["solution"]
depth = medians.absrel_median
intact = depth["skip", 1]
bad = depth[depth > 1.25 * intact].reset_index()
print({kind: group.level.tolist() for kind, group in bad.groupby("kind")} or "nowhere")
assert intact > 0

# %% [markdown]
# Back to the map: [00 · Start here](00_start_here.ipynb)
