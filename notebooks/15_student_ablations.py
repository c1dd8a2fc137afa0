# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 15 · Ablations of the student: are experts and distillation worth their minutes?
#
# **Goal.** Make the student of notebook 06 again and again with one idea taken out, with several seeds, and say which of the
# differences are larger than luck.
#
# **Prerequisites.** Notebooks 05 and 06 (what is taken apart), 07 (the protocol), 14 (how such a table is read).
#
# **Inputs.** `results/curate/`, `results/score/`, `results/stage1/cameras/`, `results/stage2/`, `results/experts/`; the embedded
# validation split, whose truth is read for judging only.
#
# **Outputs.** `results/student_ablations/metrics.json` (mean and spread of each row), `table.md`, `figures/`.
#
# **Time and memory.** Default: about 35 minutes on 2 cores, 4 GB; so
# `dvc repro` does not run it, but `dvc repro ablations/dvc.yaml` does. Stopped at any moment, the same command goes on. Smoke: a
# minute.
#
# **The number you should get.** For each row, its mean, and a sentence that says whether it differs from `student` by more
# than its seeds differ among themselves. All students start from one stage 2, so that the spread is that of distillation alone.

# %% tags=["parameters"]
seed = 0  # every stage takes it; the trainings here have the seeds 0, 1, ...
threads = 2  # cores of the reference machine: as many trainings at a time
data = "data"  # the embedded corpus
max_frames = 0  # frames of each validation clip; 0 takes all, a smoke run takes few
max_clips = 0  # validation clips, spread over the split; 0 takes all: 26 of them are multi-view
seeds = 3  # students of each row: the fewest that have a spread
rows = {  # row: {key of params.yaml, section distill, or of ablations.StudentRecipe: value}
    "student": {},  # notebook 06 as it is
    "no_experts": {"experts": False},  # stage 2's network stands in for every expert
    "no_distillation": {"distillation": 0.0, "self_steps": 0},  # the same steps of phase 1 with nobody's opinion
    "plain_sums": {"gradients": "sum"},  # the mean of the clusters' gradients instead of their shortest combination
}  # an idea less in each

# %%
from pathlib import Path

import pandas as pd
import torch
from IPython.display import Markdown

from ss3d_lib import ablations, distillation, evaluate, plots, report
from ss3d_lib.files import write_json
from ss3d_lib.params import load_sections

torch.set_num_threads(threads)
plots.use_style()
results, out, work = Path("results"), Path("results/student_ablations"), Path(".scratch/student_ablations")
figures = out / "figures"

# %% [markdown]
# ## The rows
# A row replaces values of the section `distill`; the table shows where each differs from `student`. `no_distillation` keeps the
# batches of several clusters, the Pareto-optimal gradients and the number of steps: it is stage 2 trained on, so what it lacks
# is the teachers alone.
#
# **Predict:** which row loses most, and is it more than the seeds differ?

# %%
planned = ablations.recipes(rows, load_sections(), ablations.StudentRecipe)
table = pd.DataFrame({name: vars(recipe) for name, recipe in planned.items()}).T
table.loc[:, table.nunique() > 1]

# %%
school = distillation.load_school(results)
pictures = {
    f"cluster {k}": [s.frames[len(s.frames) // 2] for s, label in zip(school.shots, school.clusters.label) if label == k][:6]
    for k in range(school.clusters.count)
}
plots.save_figure(plots.contact_rows(pictures, columns=6), figures / "clusters.png")

# %%
assert len(school.teachers) == school.clusters.count and len(planned) == len(rows)
assert all(recipe.steps > 0 for recipe in planned.values())
del school  # the processes below read their own

# %% [markdown]
# ## Making and judging
# Every student starts from `results/stage2/model.safetensors`; the seeds draw other batches and other augmentations.

# %%
clips = ablations.judges(data, max_frames, max_clips)
judging = ablations.Judging(data, max_frames, max_clips, tuple(evaluate.choose_strides(clips, threads)))
jobs = [
    (f"{name}-{number}", recipe, number, results, judging) for name, recipe in planned.items() for number in range(seeds)
]
found = evaluate.in_processes(ablations.run_student, [(*job, work / job[0]) for job in jobs], threads, "rows and seeds")
measured = {name: found[index * seeds : (index + 1) * seeds] for index, name in enumerate(planned)}

# %% [markdown]
# ## Which differences are real?

# %%
block = ablations.summarise(measured)
(out / "table.md").write_text(report.ablation_table(block) + "\n", encoding="utf-8")
Markdown(report.ablation_table(block))

# %%
columns = {key: report.COLUMNS[key][:2] for key in ablations.KEYS}
plots.save_figure(plots.set_bars(ablations.bars(block), columns, "embedded_val, mean and spread"), figures / "rows.png")

# %%
write_json(out / "metrics.json", {"rows": block})
pd.DataFrame(block).T.filter(regex="_mean$|_std$").round(4)

# %% [markdown]
# ## Recap
# - Whoever adds a stage owes a row without it.
# - The control of distillation is not stage 2 but stage 2 with as many steps more.
#
# ## Exercises
# 1. Three students of one row have errors of 0.20, 0.21 and 0.22, three of another 0.21, 0.22 and 0.23. How many spreads apart?
# 2. Why is the student of `make repro` no row of the table, although seed 0 of the first row has its parameters?

# %% tags=["solution"]
made_up = {"student": [0.20, 0.21, 0.22], "other": [0.21, 0.22, 0.23]}
pair = ablations.summarise({name: [{"absrel_median": value} for value in values] for name, values in made_up.items()})
assert abs(report.in_spreads(pair["other"], "absrel_median") - 1) < 1e-6
print("one: not enough to say anything with three seeds")

# %% tags=["solution"]
same = planned["student"] == ablations.recipes({"student": {}}, load_sections(), ablations.StudentRecipe)["student"]
assert same
print("it is in it: seed 0, but for one thread instead of two, whose sums round differently")

# %% [markdown]
# Next: [16 · A few labels](16_few_labels.ipynb). Or back to the map: [00 · Start here](00_start_here.ipynb)
