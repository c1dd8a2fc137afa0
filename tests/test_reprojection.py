"""The terms that look at neighbouring frames, on the toy room, whose depth and motion are known exactly."""

import numpy as np
import pytest
import torch

from ss3d_lib import geometry, joint, toy_scene
from ss3d_lib.data import Cameras, Shot, Stereo, generator
from ss3d_lib.models.triangulation import DepthEvidence
from ss3d_lib.reprojection import neighbours_of, reprojection_terms

HEIGHT, WIDTH, FOCAL_PX, STRIDE, FRAMES = 64, 96, 80.0, 2, 6


@pytest.fixture(scope="module")
def shot() -> Shot:
    """Six frames of the room from a camera that moves and turns, stride 2, with true cameras and true sweeps."""
    intrinsics = geometry.intrinsics_matrix(torch.tensor([FOCAL_PX]), HEIGHT, WIDTH)[0]
    k = torch.arange(FRAMES)[:, None].float()
    world_from_cam = geometry.rigid(
        geometry.so3_exp(k * torch.tensor([0.002, -0.004, 0.003])), k * torch.tensor([0.16, -0.03, 0.06])
    )
    drawn = [toy_scene.render(pose.numpy(), intrinsics.numpy(), HEIGHT, WIDTH) for pose in world_from_cam]
    frames = np.stack([np.round(255 * image).astype(np.uint8) for image, _ in drawn])
    logs = -torch.from_numpy(np.stack([depth for _, depth in drawn])).log()
    half = torch.nn.functional.avg_pool2d(logs[:, None], 2)
    sure, no_matches = [torch.ones_like(half)] * 2, [torch.zeros_like(half)] * 3
    maps = torch.cat([half, *sure, *no_matches], dim=1).numpy()
    next_from_frame = geometry.invert_pose(world_from_cam[STRIDE:]) @ world_from_cam[:-STRIDE]
    motion = {1: next_from_frame[:, :3, :3].numpy()}, {1: next_from_frame[:, :3, 3].numpy()}
    residual = {1: np.zeros(FRAMES - STRIDE, np.float32)}
    cameras = Cameras(FOCAL_PX, np.zeros(3), np.zeros((1, 3)), np.zeros((1, 3)), *motion, residual)
    flow = np.zeros((FRAMES - STRIDE, HEIGHT // 2, WIDTH // 2, 2), np.float16)
    return Shot("room", "room", 1.0, STRIDE, frames, flow, flow, cameras, Stereo(maps, maps))


def at(shot: Shot, start: int = 2):
    """Neighbours of a frame, its true log inverse depth, and a mask of nothing that moves by itself."""
    truth = torch.from_numpy(shot.stereo.full[start : start + 1, 0])
    return neighbours_of([shot], [start], torch.zeros(1)), truth, torch.ones_like(truth)


def test_true_depth_explains_the_neighbours_and_false_depth_does_not(shot):
    around, truth, still = at(shot)
    right = reprojection_terms(truth, around, still)
    assert float(right["photometric"]) < 0.02 and float(right["consistency"]) < 0.015
    for change in (0.2, -0.2):
        wrong = reprojection_terms(truth + change, around, still)
        assert float(wrong["photometric"]) > 2 * float(right["photometric"])
        assert float(wrong["consistency"]) > 5 * float(right["consistency"])


def test_descending_either_term_leads_to_the_true_depth(shot):
    around, truth, still = at(shot)
    for name in ("photometric", "consistency"):
        off = torch.zeros(1, requires_grad=True)
        wrong = torch.tensor(0.08)
        optimiser = torch.optim.Adam([off], 0.005)
        for _ in range(40):
            optimiser.zero_grad()
            reprojection_terms(truth + wrong + off, around, still)[name].backward()
            optimiser.step()
        assert abs(float((wrong + off).detach())) < 0.4 * float(wrong), name


def test_a_crop_and_a_flip_change_neither_term(shot):
    """The augmentation moves the picture, not the scene: at the true depth of the crop, the neighbours are still explained."""
    around, truth, still = at(shot)
    evidence = DepthEvidence.measured(truth, still, 0 * still)
    whole = reprojection_terms(truth, around, still)
    frames = torch.from_numpy(shot.frames[2:3]).permute(0, 3, 1, 2) / 255
    for step in range(6):
        batch = joint.augment(joint.DepthBatch(frames, evidence, evidence, around), 0.6, generator(0, step))
        cut = reprojection_terms(batch.target.log_inverse_depth, batch.around, still)
        assert float(cut["photometric"]) < 0.03 and float(cut["consistency"]) < 0.025, (step, cut, whole)


def test_a_stretch_changes_the_aspect_within_its_bounds(shot):
    """Seen in where the corners of the picture come from; without crops, nothing is stretched."""
    around, truth, still = at(shot)
    evidence = DepthEvidence.measured(truth, still, 0 * still)
    batch = joint.DepthBatch(torch.from_numpy(shot.frames[2:3]).permute(0, 3, 1, 2) / 255, evidence, evidence, around)

    def aspect(min_crop: float, step: int) -> float:
        place = joint.augment(batch, min_crop, generator(0, step)).around.place[0]
        wide, high = (float(place[0, 5].max() - place[0, 5].min()), float(place[1, :, 5].max() - place[1, :, 5].min()))
        height, width = place.shape[-2:]
        return (wide / (width - 1)) / (high / (height - 1))

    found = np.array([aspect(0.6, step) for step in range(20)])
    assert found.max() > 1.05 and found.min() < 0.95 and np.abs(np.log(found)).max() < np.log(joint.STRETCH) + 0.05
    assert aspect(1.0, 0) == pytest.approx(1, abs=1e-3)


def test_a_missing_neighbour_is_not_looked_at(shot):
    around, truth, still = at(shot, 0)
    assert around.exists.tolist() == [[0.0, 1.0]]
    right, wrong = (reprojection_terms(truth + change, around, still) for change in (0.0, 0.2))
    assert float(right["photometric"]) < 0.8 * float(wrong["photometric"])  # what only the missing one saw stays unexplained
    assert float(right["consistency"]) < 0.2 * float(wrong["consistency"])
    alone = reprojection_terms(truth, joint.replace(around, exists=torch.zeros(1, 2)), still)
    assert float(alone["photometric"]) == 0 and float(alone["consistency"]) == 0


def test_what_moves_by_itself_is_left_out(shot):
    around, truth, still = at(shot)
    broken, half = truth.clone(), still.clone()
    broken[:, :, : WIDTH // 4] += 0.3
    half[:, :, : WIDTH // 4] = 0
    masked, seen = (reprojection_terms(broken, around, mask) for mask in (half, still))
    for name in ("photometric", "consistency"):
        assert float(masked[name]) < 0.6 * float(seen[name])


def test_the_terms_join_the_loss_where_they_have_a_weight(shot):
    torch.manual_seed(0)
    model = joint.ClipNet("tiny")
    around, truth, still = at(shot)
    evidence = DepthEvidence.measured(truth, still, 0 * still)
    frames = torch.from_numpy(shot.frames[2:3]).permute(0, 3, 1, 2) / 255
    batch = joint.DepthBatch(frames, evidence, evidence, around)
    of = lambda **weights: joint.depth_terms(model.eval(), batch, joint.Terms(**weights))
    without, both = of(), of(photometric=2.0, consistency=3.0)
    more = 2 * both["photometric"] + 3 * both["consistency"]
    torch.testing.assert_close(both["loss"], without["loss"] + more)
    blind = joint.DepthBatch(frames, evidence, evidence)
    assert "photometric" not in joint.depth_terms(model, blind, joint.Terms())
