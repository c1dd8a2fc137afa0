# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 01 · Curate: from videos to shots
#
# **Goal.** Cut raw videos into shots without cuts, fades, bars, logos and duplicates, at one working size. A file that
# cannot be read becomes a line with its reason, and never stops the others.
#
# **Prerequisites.** None.
#
# **Inputs.** A folder of videos (mp4, mov, avi, mpeg, webm, ...). **To use your own, change the one parameter `videos`.**
#
# **Outputs.** `results/curate/shots.csv` (a row per shot or failed file), `frames/SHOT.npy` (uint8, T x H x W x 3),
# `figures/`, `metrics.json`.
#
# **Time and memory.** Under a minute for the 96 embedded videos on 2 cores, 1 GB; the smoke profile: seconds.
#
# **The number you should get.** About two shots a video, no failed file, and no duplicate in the embedded corpus.

# %% tags=["parameters"]
seed = 0  # every stage has it; curation draws nothing at random
threads = 2  # videos read at the same time, each in a process of its own
videos = "data/videos/train"  # THE parameter to change: your own folder, or one file
max_videos = 0  # 0 takes all; a smoke run takes few
max_fps = 30.0  # faster videos are thinned: neighbours that hardly differ teach nothing
min_frames = 8  # a shot must hold a training clip with a stride of one
max_frames = 120  # longer shots are divided, so that none outweighs the others
duplicate_bits = 8  # of 63: hashes this close are the same picture in another encoding

# %%
import shutil
from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from ss3d_lib import borders, plots, shots, video
from ss3d_lib.curation import CurateSettings, curate_videos
from ss3d_lib.files import require_free_space, write_json
from ss3d_lib.progress import progress

plots.use_style()
out, work = Path("results/curate"), Path(".scratch/curate/videos")
paths = video.find_videos(videos)[: max_videos or None]
print(f"{len(paths)} videos in {videos}")

# %% [markdown]
# ## What a video is like
# Look at one first. Frames arrive upright (phones write the rotation beside the picture), with their time stamps (many
# videos have no constant frame rate), and no larger than twice what is needed.

# %%
example = next(path for path in paths if path.stat().st_size > 1000)
frames, times_s = video.read_video(example, short_side_px=288, max_frames=240)
chosen = np.linspace(0, len(frames) - 1, 8).astype(int)
titles = [f"{times_s[i]:.1f} s" for i in chosen]
plots.save_figure(plots.shot_sheet(frames[chosen], titles, [True] * 8), out / "figures" / "one_video.png")

# %% [markdown]
# ## Where do shots end?
# On small pictures, motion hardly shows and a change of scene does. A **hard cut** stands out against the frames around it
# (scenedetect); amid fast motion, optical flow decides: two pictures of one scene match, those of two scenes do not. A **dissolve** is a mixture: its frames lie on the straight line between its two ends, which a
# moving camera never manages. Its frames belong to neither shot and are left out.
#
# **Predict:** how large is the change at a cut, compared with the changes around it?

# %%
small = shots.tiny(frames)
change = np.abs(np.diff(small.astype(float), axis=0)).mean(axis=(1, 2, 3))
ranges = shots.shot_ranges(small)
marks = [edge for start, end in ranges for edge in (start, end)]
print("shots (first frame, end):", ranges)
plots.save_figure(
    plots.change_curve(change, marks, "change to the next frame, grey levels"), out / "figures" / "change.png"
)

# %% [markdown]
# ## What of the picture is the scene?
# Black bars are lines that are nearly black in all frames. A logo or a caption is structure that stays while the rest of
# the picture moves. Both are cropped where that costs little: a match on a logo says that the camera does not move.

# %%
start, end = ranges[0]
x0, y0, x1, y1 = borders.picture_box(frames[start:end])
working, scale, _ = video.to_working(frames[start:end, y0:y1, x0:x1])
print(f"kept of {frames.shape[2]} x {frames.shape[1]}: {x1 - x0} x {y1 - y0}; working size {working.shape[2]} x {working.shape[1]}")
assert working.shape[1:3] in video.WORKING_SIZES.values() and working.dtype == np.uint8

# %% [markdown]
# ## All videos
# Finished videos are kept: after Ctrl-C the same command goes on with the next one.

# %%
require_free_space(out, 8e6 * len(paths))
settings = CurateSettings(max_fps, min_frames, max_frames, duplicate_bits)
watch = partial(progress, label="curating videos")
rows = curate_videos(paths, out, work, settings, threads, watch)
table = pd.DataFrame(rows)
table.groupby(["status", table.reason.str.split(":").str[0]]).shot.count().rename("shots").to_frame()

# %%
for row in [row for row in rows if row.status == "failed"]:
    print(row.video, "-", row.reason)
kept = [row for row in rows if row.status == "kept"]
assert kept, f"no shot was kept: look at {out / 'shots.csv'} for the reasons"
assert table.shot.is_unique and all((out / "frames" / f"{row.shot}.npy").is_file() for row in kept)

# %%
load = lambda row: np.load(out / "frames" / f"{row.shot}.npy", mmap_mode="r", allow_pickle=False)
sheet = [kept[i] for i in np.unique(np.linspace(0, len(kept) - 1, 48).astype(int))]
pictures = [load(row)[row.frames // 2] for row in sheet]
names = [f"{row.shot[-14:]} {row.frames}f" for row in sheet]
plots.save_figure(plots.shot_sheet(pictures, names, [True] * len(sheet)), out / "figures" / "kept.png")

# %%
statuses = Counter(row.status for row in rows)
metrics = {
    "videos": len(paths),
    "videos_failed": len({row.video for row in rows if row.status == "failed"}),
    "shots_kept": statuses["kept"],
    "shots_dropped": statuses["dropped"],
    "duplicates": sum(row.reason.startswith("duplicate") for row in rows),
    "frames_kept": sum(row.frames for row in kept),
    "seconds_kept": sum(row.end_s - row.start_s for row in kept),
}
write_json(out / "metrics.json", metrics)
shutil.rmtree(work)  # everything is in results/curate now
metrics

# %% [markdown]
# ## From YouTube-8M to a folder of videos
# The paper's videos are those of [YouTube-8M](https://research.google.com/youtube8m/download.html). Its TFRecords hold no
# pictures: per video an anonymous id of four characters, label numbers, and features. Two commands lead from them to a folder
# that `videos` may name (`FOLDER/videos`); this notebook runs neither, for both need the network:
#
# ```
# python -m ss3d_lib.youtube8m train*.tfrecord --vocabulary vocabulary.csv --labels Car Train --out list.csv
# python -m ss3d_lib.fetch list.csv --out FOLDER --licences cc-by
# ```
#
# 1. The first keeps the videos with one of the labels (names or numbers) and asks the data set's public mapping, once
#    for each, which video an id stands for. Videos that their owners removed have no answer, and are left out.
# 2. The second fetches line by line: 480 px on the short side, without sound, one request per 5 s, 2 MB/s, a growing pause
#    after each failure. A file is named by the hash of its content, after its type, length, first bytes and last frame
#    were checked. `FOLDER/manifest.csv` says of every line `fetched`, `refused` (final, with the reason) or `failed` (the
#    same command tries it again). A list of your own works too: a CSV with `id,url,licence`, where `url` may be any video file.
#
# **Predict:** why does nothing in the list, neither an id nor a URL, ever become part of a file name or of a shell command?
#
# **What you answer for.** YouTube's terms forbid downloads without its permission or the owner's; the licence of the
# TFRecords (CC BY 4.0) does not cover the videos; people in them have rights of their own, and deletion requests reach you
# as well. Hence `--licences` has no default: `cc-by` takes what its owner gave away, `unknown` takes videos that state
# nothing, which on YouTube means that all rights are reserved. Do not pass the videos on. YouTube also changes often: a
# recent yt-dlp, and for some videos a JavaScript runtime (see yt-dlp's own pages), may be needed.

# %% [markdown]
# ## Recap
# - A dissolve lies on the line between two pictures; a camera movement does not.
# - Times, not frame numbers, are what videos agree on.
# - What is drawn over the picture lies to the geometry: it is cropped before anything is measured.
#
# ## Exercises
# 1. Four frames of one picture and four of another: is any of them a mixture? And when the change takes five frames?
# 2. What does `to_working` do to a portrait video of 270 x 480 px (width x height)?

# %% tags=["solution"]
rng = np.random.default_rng(seed)
first, second = (np.kron(rng.integers(0, 255, (9, 16, 3)), np.ones((8, 8, 1))) for _ in range(2))
mix = lambda *shares: np.uint8([(1 - share) * first + share * second for share in shares])
assert not shots.blends(mix(0, 0, 0, 0, 1, 1, 1, 1)).any()  # a jump is no straight line
assert shots.blends(mix(0, 0, 0, 1 / 6, 2 / 6, 3 / 6, 4 / 6, 5 / 6, 1, 1, 1))[3:8].all()

# %% tags=["solution"]
portrait, scale, crop = video.to_working(np.zeros((1, 480, 270, 3), np.uint8))
assert portrait.shape == (1, 240, 144, 3) and abs(scale - 144 / 270) < 1e-9  # scaled to cover, then cropped

# %% [markdown]
# Next: [02 · Score](02_score.ipynb): which of these shots show one scene from several places?
