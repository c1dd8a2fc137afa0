"""Building one video: its shots are rendered or drawn, developed, joined, encoded; its truth is written beside it."""
import os
from pathlib import Path

import numpy as np

from corpus import cameras, graphics, post
from corpus.plan import ShotPlan, VideoPlan, plan_video
from corpus.truth import save_truth


def build_video(name: str, out: Path) -> Path:
    """Make data/videos/SPLIT/NAME.mp4 and data/truth/SPLIT/NAME.npz under `out`; returns the video's path."""
    plan = plan_video(name)
    rng = np.random.default_rng(plan.seed + 1)
    width, height = plan.size_px
    shots = [make_shot(plan, shot) for shot in plan.shots]
    transitions = [(kind, int(rng.choice([4, 6]))) for kind in plan.transitions]
    frames, ranges = post.join([s["frames"] for s in shots], transitions)
    ink, cover = post.overlays(rng, width, height, plan.logo, plan.caption)
    frames = post.add_bars(frames, width, height)
    frames = frames * (1 - cover[None, ..., None]) + ink * cover[None, ..., None]
    truth = {key: np.concatenate([s[key][first:first + end - start] for s, (start, end, first) in zip(shots, ranges)])
             for key in ("poses", "intrinsics", "depth")}
    depth = np.where(cover > .25, 0, post.add_bars(truth["depth"], width, height))
    offset = [0, 0, (width - plan.content_px[0]) // 2, (height - plan.content_px[1]) // 2]
    for kind in ("videos", "truth"):
        (out / kind / plan.split).mkdir(parents=True, exist_ok=True)
    path = out / "videos" / plan.split / f"{name}.mp4"
    part = out / "truth" / plan.split / f"{name}.part"
    save_truth(part, plan.split, plan.domain, [(s, e, shot.kind) for shot, (s, e, _) in zip(plan.shots, ranges)],
               truth["poses"], truth["intrinsics"] + offset, depth)
    os.replace(part, part.with_suffix(".npz"))
    post.encode(path, frames, plan.fps, plan.crf)     # last: a video that is there is complete
    return path


def make_shot(plan: VideoPlan, shot: ShotPlan) -> dict:
    """One shot at the picture's size: frames (T, h, w, 3) in [0, 1], poses, intrinsics (T, 4), depth (T, h, w) m."""
    width, height = plan.content_px
    focal = max(width, height) / 2 / np.tan(np.radians(shot.fov_deg) / 2)
    rng, n = np.random.default_rng(shot.seed + 1), shot.frames
    focals, poses = np.full(n, focal), np.tile(np.eye(4), (n, 1, 1))
    if shot.kind == "slideshow":
        frames = graphics.slides(rng, n, width, height) / np.float32(255)
        return {"frames": frames, "poses": poses, "intrinsics": np.full((n, 4), np.nan), "depth": np.zeros(frames.shape[:3])}
    if shot.kind == "planar":
        path = cameras.travel(rng, n, plan.fps, "lateral", 2.0, 1.5, 0.0, turn_deg=(2, 12), speed=.8)
        path.yaw += np.pi / 2 - path.yaw[0]               # starts face on
        world = path.poses_c2w()
        poses = np.linalg.inv(world[0]) @ world
        frames, depth = graphics.over_picture(rng, poses, focal, width, height, 2.0)
        frames = frames / np.float32(255)
    else:
        frames, depth, poses, focals = _film(plan, shot, rng, focal)
    if shot.blur and n > 1:
        frames = post.motion_blur(frames, rng.uniform(.3, .8))
    principal = np.array([(width - 1) / 2, (height - 1) / 2])
    intrinsics = np.stack([focals, focals, np.full(n, principal[0]), np.full(n, principal[1])], -1)
    return {"frames": post.grain(rng, frames), "poses": poses, "intrinsics": intrinsics, "depth": depth}


def _film(plan: VideoPlan, shot: ShotPlan, rng, focal: float) -> tuple:
    from corpus.render import render_shot  # needs bpy: only where it is really used
    from corpus.worlds import Request
    width, height = plan.content_px
    movers = shot.movers if shot.kind in ("multi_view", "rotation") else shot.kind == "static"
    request = Request(shot.kind, shot.frames, plan.fps, shot.fov_deg, 2 * np.arctan(width / 2 / focal),
                      2 * np.arctan(height / 2 / focal), movers, shot.fast)
    large = 2 if shot.kind == "zoom" else 1
    linear, depth, poses = render_shot(plan.domain, shot.seed, request, width * large, height * large, focal * large)
    focals = np.full(shot.frames, focal)
    if shot.kind == "zoom":
        reach = rng.uniform(1.3, 1.9)
        focals = focal * np.exp(cameras.ramp(rng, shot.frames, np.log(reach)))[::rng.choice([-1, 1])]
        linear, depth = post.zoomed(linear[0], depth[0], shot.frames, width, height, focal * large, focals)
    return post.develop(rng, linear, depth, shot.fog), depth, poses, focals
