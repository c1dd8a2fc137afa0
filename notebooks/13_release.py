# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 13 · Release: the same stages with a larger budget
#
# **Goal.** Make the checkpoint that this repository ships and that `predict` takes: the stages of notebooks 01 to 06, with more
# videos and more steps, and a distillation at a quarter of the learning rate with three clusters a batch instead of four. Nothing
# else: no label, no other code, none of the worlds of validation or test.
#
# **Prerequisites.** Notebooks 01 to 06.
#
# **Inputs.** The folders of `videos`: the embedded training split, and more videos rendered from further seeds. `params.yaml`,
# of which `changes` replaces some values. The judges of notebook 05.
#
# **Outputs.** `results/release/student.safetensors`, `figures/`, `metrics.json` (what it was made of, and for how long).
#
# **Time and memory.** Default: about an hour on 2 cores, 4 GB; so this stage is frozen, and `dvc repro` takes what
# it wrote. `make release` renders the videos and makes it anew. Smoke: two minutes.
#
# **The number you should get.** `videos`: 156, of which 96 are embedded. What the checkpoint is worth, the row `released` of
# every table says.

# %% tags=["parameters"]
seed = 0  # every stage takes it; the trainings have that of params.yaml
threads = 2  # cores of the reference machine
videos = ["data/videos/train", ".scratch/more/videos/train"]  # the second is rendered by `make release`
judges = "data/videos/val"  # seen by the experts' judges as by anybody: without their truth
changes = {  # stage: {key of params.yaml: value}
    "stage1": {"matcher_steps": 300, "head_steps": 600},  # the trust of a match is learnt slowly; the head has its usual steps
    "stage2": {"steps": 1500},  # nearly four times as many: more than half of the hour
    "experts": {"max_judges": 16, "steps": 100},  # the first 16 of the 18 judging videos
    "distill": {"clusters": 3, "steps": 120, "self_steps": 80, "learning_rate": 0.0001},  # a quarter of the rate
}  # a larger budget for the same recipe

# %%
import shutil
from pathlib import Path

import pandas as pd
import torch

from ss3d_lib import plots, release
from ss3d_lib.checkpoints import load_model
from ss3d_lib.data import load_shots
from ss3d_lib.files import read_json, write_json
from ss3d_lib.params import load_sections
from ss3d_lib.predict import predict_frames
from ss3d_lib.video import find_videos, read_video

torch.set_num_threads(threads)
plots.use_style()
out, work = Path("results/release"), Path(".scratch/release-work")
figures = out / "figures"

# %% [markdown]
# ## More worlds
# Every rendered video has a number, from which its world, its camera and its faults follow. The embedded training split holds
# the first 96; `make release` renders those that come next. The worlds of validation and test have numbers of their own.
#
# **Predict:** which gains more from the larger budget, depth or the focal length?

# %%
found = [video for folder in videos for video in find_videos(folder)]
shown = found[:: max(1, len(found) // 24) | 1][:24]  # an odd step: the worlds come in turns of six kinds
pictures = [read_video(video, short_side_px=144, max_frames=10)[0][-1] for video in shown]
plots.save_figure(plots.shot_sheet(pictures, [video.stem for video in shown], [True] * len(shown)), figures / "worlds.png")

# %% [markdown]
# ## A larger budget
# The table says what is asked of each stage here, and what `make repro` asks of it.

# %%
usual, larger = load_sections(), release.larger_params(changes)
budget = pd.DataFrame(
    [
        {"stage": stage, "value": key, "make repro": usual[stage][key], "here": larger[stage][key]}
        for stage, values in changes.items()
        for key in values
    ]
)
budget

# %% [markdown]
# ## The stages run
# In a work folder, with DVC: stopped at any moment, the same cell goes on where it was.

# %%
count = release.prepare(work, [Path(folder) for folder in videos], Path(judges), changes)
assert count == len(found), "every video is there once"
release.reproduce(work)

# %%
made = release.account(work)
out.mkdir(parents=True, exist_ok=True)
shutil.copy2(work / release.STUDENT, out / "student.safetensors")
write_json(out / "metrics.json", made | {"distill": read_json(work / "results/distill/metrics.json")})
pd.Series(made["minutes"]).round(1)

# %% [markdown]
# ## What it sees
# Shots of the judges, which it was not trained on: pictures, and inverse depth over its median.

# %%
model = load_model(out / "student.safetensors")
folder = work / "results/experts/judges"
unseen = load_shots(folder, folder)[:4]
rows = []
for shot in unseen:
    frames = shot.frames[:: shot.stride][:6]
    depth = torch.from_numpy(predict_frames(model, frames).depth_m)
    relative = (depth.median() / depth[[0, -1]]).clamp(max=3).numpy()
    rows.append({"first": frames[0], "its inverse depth": relative[0], "last": frames[-1], "that of the last": relative[1]})
plots.save_figure(plots.map_panel(rows), figures / "depth.png")

# %% [markdown]
# ## Recap
# - A released checkpoint is a stage like any other: its inputs, steps and hours are in a file that it wrote.
# - Whether experts and distillation gave anything, `distill` in `metrics.json` says: in our last run they did not, on the judges.
# - What is learnt here is short of what is solved: a longer training improves the matcher's trust and the depth of what no
#   match sees; the geometry between them has no weights.
#
# ## Exercises
# 1. Give a stage that does not lead to the student another value in `changes`. What happens, and when?
# 2. How large is the checkpoint, and which part of the network takes most of it?

# %% tags=["solution"]
from ss3d_lib.params import ParamsError

try:
    release.larger_params({"finetune": {"steps": 1}})
    raise AssertionError("a stage after the student must be refused")
except ParamsError as error:
    print(error)

# %% tags=["solution"]
bytes_of = lambda part: sum(p.numel() * p.element_size() for p in part.state_dict().values())
sizes = {name: bytes_of(part) / 1e6 for name, part in model.named_children()}
print({name: f"{size:.2f} MB" for name, size in sizes.items()})
assert sum(sizes.values()) < 30 and max(sizes, key=sizes.get) == "depth_net"

# %% [markdown]
# Next: [14 · Ablations](14_ablations.ipynb). Or back to the map: [00 · Start here](00_start_here.ipynb)
