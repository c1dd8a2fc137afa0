# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 02 · Score: which shots show one scene from several places?
#
# **Goal.** Give every shot a score in [0, 1] for its multi-view signal, the frame stride that suits it, and a reason
# when there is no signal; cache the optical flow of the shots that are kept. No label is read.
#
# **Prerequisites.** Notebook 01.
#
# **Inputs.** `results/curate/shots.csv`, `results/curate/frames/`, `benchmarks/score.json` and `benchmarks/score_oracle.json` (rates,
# and what each factor is worth, measured once).
#
# **Outputs.** `results/score/scores.csv`, `flow/SHOT.npz` (flow there and back at the shot's stride), `figures/`,
# `metrics.json`. From the shell: `python -m ss3d_lib.score FOLDER_OR_VIDEO --out scores.csv`.
#
# **Time and memory.** About a minute for the embedded corpus on 2 cores, 1 GB; the smoke profile: seconds.
#
# **The number you should get.** About two thirds of the embedded shots are kept.

# %% tags=["parameters"]
seed = 0  # every stage has it; scoring draws nothing at random
threads = 2  # shots scored at the same time
min_score = 0.5  # the middle of every ramp below: keep what is more likely useful than not

# %%
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from ss3d_lib import plots, signal, twoframe
from ss3d_lib.curation import read_rows
from ss3d_lib.files import read_json, write_json
from ss3d_lib.flow import grey, read_cache
from ss3d_lib.progress import progress
from ss3d_lib.score import score_shots

plots.use_style()
curated, out, work = Path("results/curate"), Path("results/score"), Path(".scratch/score/shots")
rows = [row for row in read_rows(curated / "shots.csv") if row.status == "kept"]
assert rows, "notebook 01 kept no shot: look at results/curate/shots.csv"
load = lambda shot: np.load(curated / "frames" / f"{shot}.npy", allow_pickle=False)

# %% [markdown]
# ## One pair of frames
# 1. **Match.** Flow from a to b and back: a pixel that does not come home is occluded or mismatched.
# 2. **Take the best homography away.** It explains a still camera, a rotation, a zoom, and a flat scene. What it leaves is
#    parallax: the sign of depth.
# 3. **Ask one epipolar geometry to explain the rest.** It can if the scene is rigid; a mover breaks it.
#
# **Predict:** where on this frame is the distance to the homography largest?

# %%
longest = max(rows, key=lambda row: row.frames)
frames = load(longest.shot)
images = grey(frames)
found = twoframe.find_matches(images[0], images[min(4, len(images) - 1)])
first, second = found.first[found.matched], found.second[found.matched]
layers = {
    "flow, px": np.linalg.norm(second - first, axis=1),
    "off the homography, px": twoframe.homography_distance(first, second),
    "off the epipolar line, px": twoframe.epipolar_distance(found),
}
plots.save_figure(plots.pair_anatomy(frames[0], first, layers), out / "figures" / "pair.png")

# %% [markdown]
# ## From pairs to a shot
# A frame of the shot, with an earlier and a later one, at strides of 1, 2, 4 ... 32 frames: slow cameras need wide strides.
# The score is taken at the stride where most can be learnt, and there three frames are looked at, spread over the shot; but
# what stands still is told at wider strides, where a slow camera has left it behind and a tripod has not:
#
# $$ s = \underbrace{r(v)}_{\text{visible}} \cdot \underbrace{r(m)}_{\text{matched}} \cdot
# \underbrace{\sqrt{r(p)\,r(c)}}_{\text{parallax, its spread}} \cdot \underbrace{r(e)}_{\text{epipolar}} \cdot
# \underbrace{r(g)}_{\text{rigid}} \cdot \underbrace{(1 - r(z))}_{\text{not still}} $$
#
# with linear ramps $r$ from 0 to 1 (their ends: `signal.score_factors`); $v$ share of the picture with texture, $m$ share of
# it that matches, $p$ share of the matches off the homography, $c$ share of 4 x 4 cells where there are such matches, $e$
# share of those that one epipolar geometry explains, $g$ share of those whose depth from one pair holds for the next pair
# (a moving subject fits one pair by accident, not two), $z$ share that stands still. A product: every factor can veto.

# %%
table = signal.measure(images)
pd.DataFrame({f"stride {stride}": vars(found.terms) for stride, found in table.items()}).round(2)

# %% [markdown]
# ## All shots

# %%
watch = partial(progress, label="scoring shots")
scored = score_shots(rows, curated / "frames", out, work, min_score, threads, watch)
scores = pd.DataFrame(scored)
plots.save_figure(
    plots.score_overview(scores.score.to_numpy(), scores.reason.tolist(), min_score), out / "figures" / "scores.png"
)

# %%
assert scores.score.between(0, 1).all() and (scores.stride >= 1).all()
assert ((scores.reason == "") == (scores.kept == 1)).all()
for row in scored:
    assert bool(row.kept) == (out / "flow" / f"{row.shot}.npz").is_file()
scores.sort_values("score").head(10)[["shot", "score", "stride", "reason"]]

# %% [markdown]
# ## Why shots are rejected
# One row of examples a reason: the first, middle and last frame of up to two shots.

# %%
pictures, titles, good = [], [], []
for reason, group in sorted(scores.groupby("reason"), key=lambda item: item[0]):
    for shot in group.shot.iloc[:2]:
        frames = load(shot)
        pictures += [frames[0], frames[len(frames) // 2], frames[-1]]
        titles += [f"{reason or 'signal'} {shot[-14:]}", "", ""]
        good += [reason == ""] * 3
plots.save_figure(plots.shot_sheet(pictures, titles, good, columns=6), out / "figures" / "reasons.png")

# %%
names = ("matched", "parallax", "spread", "epipolar", "rigid", "still")
terms = {name: scores[name].to_numpy() for name in names}
groups = scores.reason.replace("", "signal")
plots.save_figure(plots.term_strips(terms, groups), out / "figures" / "terms.png")

# %% [markdown]
# ## What is each factor worth?
# The score with one factor left out, as `python -m benchmarks.score_oracle` measured it against the truth of the corpus, which scoring
# never sees: `auc` says how well the rest tells shots with a signal from those without, `kept` and `let through` which shares of the
# two reach 0.5, `spearman` how well it ranks shots by their true signal; `alone auc` is that factor and no other.
#
# **Predict:** without which factor do tripods pass?

# %%
worth = pd.DataFrame(read_json("benchmarks/score_oracle.json")["without"]).T.rename_axis("left out")
worth = worth.loc[["nothing", *worth.index.drop("nothing")]]
worth.rename(columns=lambda name: name.replace("_", " ")).round(3).astype(object).fillna("")

# %% [markdown]
# The camera that must move is worth most; next comes `rigid`, without which shots are ranked clearly worse, although it also
# costs shots with a signal. Parallax tells the kinds apart by itself, and yet little is lost without it, for what has none
# has hardly any matches off the homography that could agree in depth. None of the shots of this corpus is dark, blank or torn enough for the
# factors that ask whether there is anything to match: on other videos these are the first that speak.

# %% [markdown]
# ## The flow cache
# Training reads flow instead of computing it again: half resolution, in px of the working size.

# %%
kept = scores[scores.kept == 1]
assert len(kept), "no shot has a multi-view signal: training needs some; look at results/score/scores.csv"
stride, forward, backward = read_cache(out / "flow" / f"{kept.shot.iloc[0]}.npz")
print(f"{kept.shot.iloc[0]}: stride {stride}, {forward.shape[0]} pairs of flow {forward.shape[1:]}, {forward.dtype}")
assert np.isfinite(forward).all() and forward.shape == backward.shape

# %% [markdown]
# ## From this folder to YouTube-8M
# The same function, video by video, over many machines: `python -m ss3d_lib.score FOLDER --out scores.csv --backend ray`
# (`RAY_ADDRESS` names the cluster). A worker that dies costs the video in its hands; the same command goes on. To train on
# what is worth it, put those videos into a folder, name it in `curate: videos:`, and `dvc repro score`; then
# `stage1: window: 256` and `stage2: window: 256` in `params.yaml` let these two stages stream them from tar shards, 256 shots at a time.
# To train elsewhere, `python -m ss3d_lib.shards --out shards --small` packs what these stages kept, and `shards.stream_shots` reads it.
#
# What would 6.1 million videos take? The rates were measured on 480p by `make bench`, on one core.
#
# **Predict:** what takes longest: fetching, decoding, or scoring?

# %%
measured = read_json("benchmarks/score.json")
rate = measured["speed"]["made_480p"]
hours, videos = 350_000, 6_100_000  # YouTube-8M (Abu-El-Haija et al. 2016)
cores, link_bit_s = 32, 1e9  # a machine: its cores, its network
pause_s, ask_s = 5.0, 0.5  # between two videos from one address; between two questions for the id behind a pseudo id
core_hours = {
    "decoding alone": hours / rate["decode_x_real_time"],
    "every frame": hours / rate["score_x_real_time"],
    f"4 s in {measured['every_s']:.0f}": hours / rate["windows_x_real_time"],
}
pd.Series(core_hours, name="core-hours").round(-2).to_frame()

# %%
frames_kept = hours * 3600 * 30 * rate["kept_share"]
stored_tb = {
    "videos, 480p": hours * 3600 * rate["bytes_per_s"] / 1e12,
    "small shards, every frame": frames_kept * measured["storage"]["small_bytes_per_frame"] / 1e12,
    "small shards, windows": frames_kept * rate["windows_share_seen"] * measured["storage"]["small_bytes_per_frame"] / 1e12,
    "exact shards, every frame": frames_kept * measured["storage"]["exact_bytes_per_frame"] / 1e12,
}
pd.Series(stored_tb, name="TB").round(0).to_frame()

# %%
days = pd.DataFrame(
    {
        f"{machines} machines": {
            "network": stored_tb["videos, 480p"] * 8e12 / link_bit_s / 86400 / machines,
            "asking for the ids": videos * ask_s / 86400 / machines,
            "polite fetching": videos * pause_s / 86400 / machines,
            **{f"scoring, {name}": value / cores / 24 / machines for name, value in core_hours.items()},
        }
        for machines in (1, 10, 100)
    }
)
print("the bottleneck:", days.drop(index="scoring, decoding alone").iloc[:, 0].idxmax())
days.round(1)

# %% [markdown]
# Read these numbers with care. The share of frames kept, on which all storage hangs, is that of the rendered corpus; of the web far
# less will be kept. Shards are packed from frames and flow on the disk, which at this size would need the space of the exact shards
# first, so they would have to be packed part by part. And the index of duplicates holds some kilobytes a shot in the memory of
# one machine, and looks at a share of all earlier shots for each new one, so that its time grows with the square of their number: it
# would want rarer keys, and a division by hash, before it met YouTube-8M.

# %%
metrics = {
    "shots": len(scores),
    "kept": len(kept),
    "kept_share": len(kept) / len(scores),
    "mean_score": scores.score.mean(),
    "median_stride_kept": kept.stride.median(),
    "reasons": {reason: int(count) for reason, count in groups.value_counts().items()},
}
write_json(out / "metrics.json", metrics)
shutil.rmtree(work)  # everything is in results/score now
metrics

# %% [markdown]
# ## Recap
# - Rotation, zoom and flat scenes are homographies: they move every pixel and teach nothing about depth.
# - Parallax alone is no proof: movers have it too. One epipolar geometry must explain it.
# - The score is label-free; the ground truth of the embedded corpus only ever judges it (tests).
#
# ## Exercises
# 1. All matches shifted by the same 10 px: what is the distance to the best homography?
# 2. Points at random depths, seen by a camera that moves sideways: which share is off the plane?

# %% tags=["solution"]
rng = np.random.default_rng(seed)
points = rng.uniform((0, 0), (240, 144), (500, 2))
assert twoframe.homography_distance(points, points + (10, 0)).max() < 1e-3

# %% tags=["solution"]
parallax = np.stack([20 / rng.uniform(2, 20, 500), np.zeros(500)], 1)
found_terms = twoframe.match_terms(twoframe.all_matched(points, points + parallax), (144, 240))
print(f"off the plane {found_terms['parallax']:.2f}, explained {found_terms['epipolar']:.2f}")
assert found_terms["parallax"] > 0.3 and found_terms["epipolar"] > 0.99

# %% [markdown]
# Next: [03 · Stage 1: intrinsics first](03_stage1_intrinsics.ipynb)
