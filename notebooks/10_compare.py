# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 10 · Compare: one table from all stages
#
# **Goal.** Bring the figures of every stage into one summary, from which all tables and the README are made.
#
# **Prerequisites.** Notebooks 07 and 09.
#
# **Inputs.** `results/evaluate/*/metrics.json`, `metrics.json` of `baselines` and `rivals`, every stage's `timing.json`.
#
# **Outputs.** `results/compare/summary.json` ({row: {set: {metric: value}}} and the seconds of every stage),
# `metrics.json`, `figures/`.
#
# **Time and memory.** Seconds, 0.3 GB, in every profile.
#
# **The number you should get.** Ratios below 1 in the last table, the checkpoint against the trivial baselines, but for
# `kitti_drive` (on a drive straight ahead the focal length does not show, and the path is a straight line at constant speed)
# and the path of `hololens_office`, where the student does no better than constant motion; `released` does.

# %% tags=["parameters"]
seed = 0  # nothing here is random; every stage takes it
threads = 2  # cores of the reference machine
row = "student"  # the checkpoint that the figures are about

# %%
from pathlib import Path

import pandas as pd
from IPython.display import Markdown

from ss3d_lib import plots, report
from ss3d_lib.files import write_json

plots.use_style()
figures = Path("results/compare/figures")
figures.mkdir(parents=True, exist_ok=True)

# %% [markdown]
# ## The summary
# A row whose sets were measured with different checkpoints is refused: the paper's claim is ONE checkpoint for depth,
# ego-motion and intrinsics. **Predict:** on which set will "always forward" beat every network?

# %%
summary = report.build_summary()
write_json("results/compare/summary.json", summary)
main_sets = report.whole_sets(summary)
columns = {key: (title, factor) for key, (title, factor, _) in report.COLUMNS.items()}
for name in main_sets:
    of_set = {row_name: sets[name] for row_name, sets in report.rows_of(summary).items() if name in sets}
    display(plots.save_figure(plots.set_bars(of_set, columns, name), figures / f"{name}.png"))
assert row in summary, f"no row {row!r} among {list(summary)}: run `dvc repro evaluate`"

# %%
Markdown("\n\n".join(report.set_table(summary, name) for name in main_sets))

# %% [markdown]
# ## By domain
# One domain is seen in the test split only. Every row that has domains, one after the other.

# %%
Markdown("\n\n".join(filter(None, (report.domain_table(summary, name) for name in report.rows_of(summary)))))

# %% [markdown]
# ## How much better than not looking?
# Ratio of the checkpoint's error to the trivial baseline's. Below 1 it looks at the pixels to some use.

# %%
RIVALS = {
    "absrel_median": "mean_disparity",
    "focal_relerr": "constant_focal",
    "rot_deg": "identity_motion",
    "dir_deg": "constant_direction",
    "ate_sim3": "constant_motion",
}


def ratios(name):
    """{metric against rival: ratio} on one set."""
    ours = summary[row].get(name, {})
    pairs = {key: (ours.get(key), summary.get(rival, {}).get(name, {}).get(key)) for key, rival in RIVALS.items()}
    return {f"{key}_ratio": error / known for key, (error, known) in pairs.items() if error is not None and known}


against = {name: ratios(name) for name in main_sets}
write_json("results/compare/metrics.json", against)
pd.DataFrame(against).T.round(3)

# %% [markdown]
# ## Time
# Seconds per stage, on the machine that ran them.

# %%
seconds = {stage: {"seconds": value} for stage, value in summary["timings"].items()}
plots.save_figure(plots.metric_bars(seconds, "seconds", "seconds per stage"), figures / "timings.png")

# %% [markdown]
# ## Recap
# - `summary.json` is the one place that tables, figures and README read; `python -m ss3d_lib.report` fills the README.
# - A figure stands beside its trivial baseline and with its interval, or not at all.
#
# ## Exercises
# 1. Take the median rotation error of the row and of `identity_motion`: by what factor is it smaller on each set?
# 2. Which two rows' intervals on `absrel_median` do not overlap?

# %% tags=["solution"]
for name in main_sets:
    ours, rival = summary[row].get(name, {}), summary.get("identity_motion", {}).get(name, {})
    if "rot_deg" in ours and rival.get("rot_deg"):
        assert ours["rot_deg"] >= 0
        print(f"{name}: {rival['rot_deg'] / max(ours['rot_deg'], 1e-9):.1f} times smaller")

# %% tags=["solution"]
spans = {
    name: (sets["embedded_test"]["absrel_median_low"], sets["embedded_test"]["absrel_median_high"])
    for name, sets in report.rows_of(summary).items()
    if "absrel_median_low" in sets.get("embedded_test", {})
}
for one, (low, _) in spans.items():
    below = [other for other, (_, high) in spans.items() if high < low]
    assert one not in below
    print(f"{one}: surely worse than {', '.join(below) or 'none'}")

# %% [markdown]
# Next: [11 · Your video](11_your_video.ipynb)
