# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 14 · Ablations: what each idea is worth
#
# **Goal.** Train stage 2 again and again with one idea taken out, and once everything together from nothing, with several seeds,
# and say which of the differences are larger than luck. Three groups of rows, each a run of this notebook: `score`, `teacher`, `design`.
#
# **Prerequisites.** Notebooks 01 to 04 (the stages that are taken apart), 07 (the protocol) and 12 (the photometric recipe).
#
# **Inputs.** `results/curate/`, `results/score/`, `results/stage1/`, `results/stage2/stereo/`; the embedded validation split,
# whose truth is read for judging only.
#
# **Outputs.** `results/ablations/GROUP/`: `metrics.json` (mean and spread of each row), `table.md`, `figures/`.
#
# **Time and memory.** Default: about half an hour a group on 2 cores with AVX-512, an hour and more without, 8 GB; so `dvc repro` does not
# run it, but `dvc repro ablations/dvc.yaml:ablations@score` (`@teacher`, `@design`) does. Stopped at any moment, the same command goes
# on. Smoke: a minute each.
#
# **The number you should get.** For each row, its mean, and a sentence that says whether it differs from `full` by more than
# its seeds differ among themselves. Most figures differ by less; those of `all_at_once` by far more.

# %% tags=["parameters"]
seed = 0  # every stage takes it; the trainings here have the seeds 0, 1, ...
threads = 2  # cores of the reference machine: as many trainings at a time
data = "data"  # the embedded corpus
max_frames = 0  # frames of each validation clip; 0 takes all, a smoke run takes few
max_clips = 0  # validation clips, spread over the split; 0 takes all: 26 of them are multi-view
seeds = 3  # trainings of each row: the fewest that have a spread
steps = 100  # a quarter of stage 2's: differences between ideas show before depth is at its best
images = 12  # images a step, as in stage 2
learning_rate = 0.001  # as in stage 2
groups = {  # group: {row: {key of params.yaml (score, stage1, stage2) or of ablations.Recipe: value}}; full is stage 2 as it is
    "score": {  # what the score is worth
        "full": {},
        "no_filter": {"min_score": 0.0},  # every shot of curation; but those with a low score are seldom drawn
        "no_score": {"min_score": 0.0, "easy_share": 1.0, "by_score": False},  # every shot, all alike
        "no_curriculum": {"easy_share": 1.0},  # all kept shots from the first step
    },
    "teacher": {  # who teaches depth
        "full": {},  # flow only, as to its teacher
        "photometric_only": {"triangulation": 0.0, "photometric": 1.0},  # the other teacher
        "flow_and_photometric": {"photometric": 0.3},  # both teachers
        "consistency": {"consistency": 0.3},  # and depth must agree with the neighbours' depth
    },
    "design": {  # what is known before depth is learnt
        "full": {},
        "no_intrinsics_first": {"sharpness": 0.0},  # a constant focal length for all training shots
        "single_image": {"single_image": 1.0},  # never any evidence: a single-image network
        "all_at_once": {"all_at_once": True},  # no stage 1: depth, motion and focal length together, the photometric recipe
    },
}  # one idea less or more in each row but the last, which is another design
group = "score"  # of these groups; a matrix key

# %%
from pathlib import Path

import numpy as np
import pandas as pd
import seaborn as sns
import torch
from IPython.display import Markdown

from ss3d_lib import ablations, evaluate, plots, report
from ss3d_lib.curriculum import sampling_weights
from ss3d_lib.files import write_json
from ss3d_lib.params import load_sections
from ss3d_lib.streaming import Pool

torch.set_num_threads(threads)
plots.use_style()
results, out, work = Path("results"), Path("results/ablations") / group, Path(".scratch/ablations") / group
figures = out / "figures"

# %% [markdown]
# ## The rows
# A row replaces values of `params.yaml` and, but for `all_at_once`, nothing else; the table shows where each differs from `full`, which
# every group trains again.
#
# Read some of them with care. `no_intrinsics_first` is a constant focal length for all training shots: their cameras are solved
# under 0.8 of the longer side (a posterior that knows nothing is that of ordinary cameras), and the focal head stays untrained, so that
# it reads the raw curve of a clip. Cameras still come before depth, and bundle adjustment in the forward pass still looks for the
# focal length of the clip that is judged. `photometric_only` loses triangulation as its *teacher*; the network is still shown what
# matches triangulate. `no_filter` hardly trains on what it lets in, for the score is also the weight by which shots are drawn;
# `no_score` does. `consistency` takes nothing out: it adds the term that stage 2 leaves off, for what the sweep confirms is
# consistent already; here that is measured, at one weight.
#
# ### All at once
# `all_at_once` has no stage 1 and no geometry solved by a layer: a depth network and a network of pairs of frames learn depth,
# motion and focal length *together*, from nothing, by what must look alike after warping. It is the recipe of notebook 12, with
# the same encoder, and gets what every row gets: shots, steps, images a step (each with the frame before and the one after),
# learning rate, seeds, and the judges with their strides. It draws shots by their score from the first step, without curriculum.
# One of its steps takes four to five times as long as one of `full`, so that it gets more time; but `full` has the
# training of stage 1, of matcher and focal head, behind it. Depth starts from random weights in both.
#
# It shows how far learning everything at once comes in the steps in which learning in order comes to its depth, and no more
# than that. The two rows differ by their whole design, not by one idea: cameras come from networks instead of geometry, depth
# from one picture instead of a clip, and the teacher is another one. So no part of the difference can be put down to the order
# of learning alone. And at so small a budget a photometric recipe is at its start: notebook 12 trains it for seven times as many
# steps, at a tenth of the rate, its authors'; its published results took hundreds of thousands. (That rate, tried here once with one
# seed and 133 steps: AbsRel 0.50 as with ours, direction 62 degrees off for 57, focal error 0.39 for 0.54, for it hardly moved from its start.)
#
# **Predict:** which row of the group loses most, `all_at_once` aside?

# %%
planned = ablations.recipes(groups[group], load_sections())
table = pd.DataFrame({name: vars(recipe) for name, recipe in planned.items()}).T
table.loc[:, table.nunique() > 1]

# %% [markdown]
# ## Shots, cameras and sweeps
# Most rows take those of the stages. A row that changes the filter or the lens gets its own, made by the same functions.
# (`all_at_once` takes the shots, and looks at neither cameras nor sweeps.)

# %%
usual = planned[ablations.FULL]
sources = {name: ablations.prepare(recipe, usual, results, work, threads) for name, recipe in planned.items()}
shown = {name: ablations.training_shots(source) for name, source in sources.items()}
pd.DataFrame(
    {
        "shots": {name: len(shots) for name, shots in shown.items()},
        "focal lengths": {name: len({round(s.cameras.focal_px / max(s.size), 3) for s in shots}) for name, shots in shown.items()},
    }
)

# %% [markdown]
# Which shots are drawn? Of `full` and the rows that change it, the share of draws that go to shots up to a score, at the first step and
# at the last. At the last step `no_curriculum` draws as `full` does, and its line lies under that of `full`.
# **Predict:** which row draws most from shots without a signal?

# %%
drawn = []
for name, recipe in planned.items():
    if name == ablations.FULL or (recipe.min_score, recipe.easy_share, recipe.by_score) != (usual.min_score, usual.easy_share, usual.by_score):
        pool = Pool.of(shown[name])
        for step, progress in (("first", 0.0), ("last", 1.0)):
            weights = sampling_weights(pool.scores if recipe.by_score else np.ones(len(pool.shots)), pool.eases, progress, recipe.easy_share)
            drawn += [{"row": name, "step": step, "score": score, "weight": weight} for score, weight in zip(pool.scores, weights)]
grid = sns.displot(pd.DataFrame(drawn), x="score", weights="weight", hue="row", col="step", kind="ecdf", height=2.4, aspect=1.4)
plots.save_figure(grid.set_ylabels("share of draws").figure, figures / "drawn.png")

# %%
for name, recipe in planned.items():
    if recipe.min_score < usual.min_score:
        assert len(shown[name]) >= len(shown[ablations.FULL]), "the filter can only take shots away"
assert usual.sees_evidence and steps > 0
del shown  # the processes below read their own

# %% [markdown]
# ## Training and judging
# Every row but `all_at_once` starts from stage 1's checkpoint and trains the depth network alone, with seeds that draw other
# batches and other augmentations; `all_at_once` trains all it has, and its seeds draw the first weights too. So the spread is
# that of the *training*, not of stage 1, of the corpus, or of the clips that judge.

# %%
strides = tuple(evaluate.choose_strides(ablations.judges(data, max_frames, max_clips), threads))
judging = ablations.Judging(data, max_frames, max_clips, strides)
budget = ablations.Budget(steps, images, learning_rate)
jobs = [
    (f"{name}-{number}", recipe, number, sources[name], str(results / "stage1/model.safetensors"), budget, judging)
    for name, recipe in planned.items()
    for number in range(seeds)
]
found = evaluate.in_processes(ablations.run_seed, [(*job, work / job[0]) for job in jobs], threads, "rows and seeds")
measured = {name: found[index * seeds : (index + 1) * seeds] for index, name in enumerate(planned)}

# %% [markdown]
# ## Which differences are real?
# The spread of a difference is the root mean square of the two standard deviations over seeds. With three seeds a difference of
# one spread comes about by luck in three of ten comparisons, of two spreads in one of fourteen; and there are many comparisons here.
# The picture leaves `all_at_once` out: beside its bars no other difference could be seen.

# %%
block = ablations.summarise(measured)
(out / "table.md").write_text(report.ablation_table(block) + "\n", encoding="utf-8")
Markdown(report.ablation_table(block))

# %%
columns = {key: report.COLUMNS[key][:2] for key in ablations.KEYS}
close = {name.replace("_", " "): row for name, row in block.items() if not planned[name].all_at_once}
close = {"full: nothing changed" if name == ablations.FULL else name: row for name, row in close.items()}
plots.save_figure(plots.set_bars(ablations.bars(close), columns, "embedded_val, mean and spread"), figures / "rows.png")

# %%
write_json(out / "metrics.json", {"rows": block})

# %% [markdown]
# ## Recap
# - An ablation without seeds is an anecdote: look at the spread before the difference.
# - A row takes one idea out of a system in which other parts may do its work: that nothing is lost without it does not show
#   that it does nothing.
# - Two designs, measured beside each other, say which one works at this budget, not which of their differences is why.
#
# ## Exercises
# 1. How many spreads apart are two rows whose seeds gave 0.20, 0.21, 0.22 and 0.22, 0.23, 0.24?
# 2. Whose seeds agree best: in which row is the standard deviation of AbsRel the smallest share of its mean?

# %% tags=["solution"]
made_up = {"full": [0.20, 0.21, 0.22], "other": [0.22, 0.23, 0.24]}
pair = ablations.summarise({name: [{"absrel_median": value} for value in values] for name, values in made_up.items()})
print(report.sentence(pair["other"]))
assert abs(report.in_spreads(pair["other"], "absrel_median") - 2) < 1e-6

# %% tags=["solution"]
steadiness = {name: row["absrel_median_std"] / row["absrel_median_mean"] for name, row in block.items()}
steadiest = min(steadiness, key=steadiness.get)
print(f"{steadiest}: {steadiness[steadiest]:.1%}; full: {steadiness[ablations.FULL]:.1%}")
assert 0 <= steadiness[steadiest] <= steadiness[ablations.FULL]

# %% [markdown]
# Next: [15 · Ablations of the student](15_student_ablations.ipynb)
