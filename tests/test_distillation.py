"""Experts, Pareto-optimal gradients, distillation and fine-tuning, on small made-up shots with a known scene."""

import copy
import itertools
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from made_shots import make_shot
from timm.layers import freeze_batch_norm_2d
from torch import nn

from ss3d_lib import distillation, experts, finetuning, pareto
from ss3d_lib.data import Cameras, Shot, frames_tensor, generator, load_shots
from ss3d_lib.joint import DepthBatch, Terms, make_batch
from ss3d_lib.models import ClipNet
from ss3d_lib.models.trajectory import GAPS
from ss3d_lib.models.triangulation import DepthEvidence, triangulate
from ss3d_lib.stereo import correspondences, sweep_shot
from ss3d_lib.training import Plan, fingerprint, train

HEIGHT, WIDTH, FOCAL_PX = 64, 96, 80.0
TERMS = Terms()
JUDGE = np.arange(8) >= 6  # the last two shots judge
QUICK = dict(learning_rate=1e-3, warmup_steps=1, save_every=2)


def made_shot(seed: int, along: bool, frames: int = 12) -> Shot:
    """A camera that moves forward or sideways in front of a slanted wall; pictures, flow and motions are exact."""
    rng = np.random.default_rng(seed)
    pattern = np.kron(rng.integers(0, 255, (9, 13, 3)), np.ones((8, 8, 1)))[:HEIGHT, :WIDTH].astype(np.uint8)
    if along:
        pattern = 255 - pattern // 3  # bright: another look for another kind of motion
    step = np.array([0, 0, 0.1]) if along else np.array([0.3, 0, 0])
    normal, centre = np.array([0.1, 0.15, 0.25]), np.array([(WIDTH - 1) / 2, (HEIGHT - 1) / 2])

    def points(k, every):  # of the wall, normal * point = 1, that frame k sees, less the camera's place
        y, x = np.mgrid[0:HEIGHT:every, 0:WIDTH:every] + (every - 1) / 2
        rays = np.stack([(x - centre[0]) / FOCAL_PX, (y - centre[1]) / FOCAL_PX, np.ones_like(x)], -1)
        return rays * (1 - normal @ step * k) / (rays @ normal)[..., None]

    project = lambda point: point[..., :2] / point[..., 2:] * FOCAL_PX  # noqa: E731
    flow = lambda k, t: (project(points(k, 2) - t) - project(points(k, 2))).astype(np.float16)  # noqa: E731
    places = [(project(points(k, 1) + k * step) + centre).astype(np.float32) for k in range(frames)]
    pictures = np.stack([cv2.remap(pattern, *np.moveaxis(at, -1, 0), cv2.INTER_LINEAR, None, cv2.BORDER_REFLECT) for at in places])
    forward = np.stack([flow(k, step) for k in range(frames - 1)])
    backward = np.stack([flow(k + 1, -step) for k in range(frames - 1)])
    rotation = {s: np.repeat(np.eye(3, dtype=np.float32)[None], max(0, frames - s), 0) for s in GAPS}
    moved = {s: np.repeat((-s * step).astype(np.float32)[None], max(0, frames - s), 0) for s in GAPS}
    residual = {s: np.full(max(0, frames - s), 0.05, np.float32) for s in GAPS}
    curves, summaries = np.zeros((2, 32), np.float32), np.zeros((2, 3), np.float32)
    cameras = Cameras(FOCAL_PX, np.full(32, -np.log(32), np.float32), curves, summaries, rotation, moved, residual)
    return sweep_shot(Shot(f"shot_{seed:02d}", f"v{seed}", 0.5 + 0.04 * seed, 1, pictures, forward, backward, cameras))


@pytest.fixture(scope="module")
def shots():
    return [made_shot(seed, along=seed % 2 == 1) for seed in range(8)]


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return ClipNet("tiny").eval()


@pytest.fixture(scope="module")
def clusters(model, shots):
    return experts.find_clusters([shot.name for shot in shots], experts.describe(model, shots, JUDGE), JUDGE, 2, 2, 0)


def shortest_by_search(gradients: np.ndarray, cells: int = 60) -> float:
    """Least length of a convex combination on a grid of the simplex."""
    grid = (np.array(w) / cells for w in itertools.product(range(cells + 1), repeat=len(gradients)) if sum(w) == cells)
    return min(float(np.linalg.norm(w @ gradients)) for w in grid)


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("tasks", [2, 3])
def test_min_norm_weights_against_a_search_over_the_simplex(seed, tasks):
    rng = np.random.default_rng(seed)
    gradients = rng.normal(size=(tasks, 5)) * rng.uniform(0.1, 4, (tasks, 1)) + rng.uniform(-1, 1) * rng.normal(size=5)
    flat = torch.tensor(gradients)
    weights = pareto.min_norm_weights(flat @ flat.T)
    assert weights.min() >= 0 and weights.sum() == pytest.approx(1)
    combined = weights @ flat
    assert combined.norm() <= shortest_by_search(gradients) + 1e-9
    assert (flat @ combined >= combined.square().sum() * (1 - 1e-6) - 1e-9).all(), "not a descent direction of all tasks"


@pytest.mark.parametrize("seed", range(5))
def test_two_tasks_have_a_closed_form(seed):
    pair = torch.randn(2, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    assert pareto.min_norm_weights(pair @ pair.T)[0] == pytest.approx(pareto.two_task_share(*pair), abs=1e-6)


def test_min_norm_weights_of_special_gradients():
    same = torch.ones(3, 3)
    assert pareto.min_norm_weights(same).sum() == pytest.approx(1)
    opposed = torch.tensor([[1.0, -1.0], [-1.0, 1.0]])
    assert torch.allclose(pareto.min_norm_weights(opposed), torch.tensor([0.5, 0.5], dtype=torch.float64))
    nested = torch.tensor([[1.0, 2.0], [2.0, 4.0]])  # the shorter of two parallel gradients
    assert torch.allclose(pareto.min_norm_weights(nested), torch.tensor([1.0, 0.0], dtype=torch.float64))


def test_a_pareto_step_lowers_both_losses_where_a_sum_does_not():
    point = nn.Parameter(torch.tensor([1.0, 1.0]))
    goals = torch.tensor([1.5, 0.0]), torch.tensor([0.0, 1.2])
    tasks = lambda x: [(x - goals[0]).square().sum(), 30 * (x - goals[1]).square().sum()]  # noqa: E731
    before = [float(task.detach()) for task in tasks(point)]
    (total,) = torch.autograd.grad(sum(tasks(point)), point)
    found = pareto.add_pareto_gradient(tasks(point), [point])
    assert sum(float(w) for w in found.values()) == pytest.approx(1)
    for direction, better in ((point.grad, True), (total, False)):
        moved = point.detach() - 1e-3 * direction / direction.norm()
        after = [float(task) for task in tasks(moved)]
        assert all(a < b for a, b in zip(after, before)) == better


def test_a_loss_of_zero_or_below_counts_like_any_other():
    point = nn.Parameter(torch.tensor([1.0, 1.0]))
    tasks = lambda shift: [(point * torch.tensor([1.0, 0.5])).sum() + shift, (point * torch.tensor([0.5, 1.0])).sum()]  # noqa: E731
    weights = [pareto.add_pareto_gradient(tasks(shift), [point]) for shift in (0.0, -1.5, -9.0)]
    assert all(float(found["weight_0"]) == pytest.approx(0.5) for found in weights)


def test_equal_tasks_give_the_gradient_of_the_mean():
    layer = nn.Linear(3, 1)
    task = lambda: layer(torch.ones(2, 3)).square().mean()  # noqa: E731
    wanted = torch.autograd.grad(task(), list(layer.parameters()))
    pareto.add_pareto_gradient([task(), task()], list(layer.parameters()))
    assert all(torch.allclose(p.grad, g, atol=1e-6) for p, g in zip(layer.parameters(), wanted))


def test_clusters_follow_the_looks_and_motions_and_are_deterministic(model, shots, clusters):
    again = experts.find_clusters([s.name for s in shots], experts.describe(model, shots, JUDGE), JUDGE, 2, 2, 0)
    assert np.array_equal(again.label, clusters.label) and np.array_equal(again.membership, clusters.membership)
    odd = np.arange(len(shots)) % 2
    assert np.array_equal(clusters.label, odd) or np.array_equal(clusters.label, 1 - odd)
    assert np.allclose(clusters.membership.sum(1), 1) and (clusters.membership.argmax(1) == clusters.label).all()
    for cluster in range(clusters.count):
        judges = {shot.name for shot in clusters.judges(shots, cluster)}
        drawn = {shot.name for shot, w in zip(shots, clusters.sampling(shots, cluster)) if w > 0}
        assert judges and not judges & drawn


def test_an_odd_shot_does_not_use_up_a_cluster(shots):
    places = np.random.default_rng(0).normal(scale=0.1, size=(len(shots), 2))
    places[4:] += 2
    places[0] = 100.0
    names, nobody = [shot.name for shot in shots], np.zeros(len(shots), bool)
    found = experts.find_clusters(names, places, nobody, 2, 3, 0)
    assert np.bincount(found.label).tolist() in ([4, 4], [5, 3])
    assert len(set(found.label[1:4])) == len(set(found.label[4:])) == 1 and found.label[1] != found.label[4]
    assert experts.find_clusters(names, places, nobody, 2, 5, 0).count == 1
    with pytest.raises(ValueError, match="min_shots"):
        experts.find_clusters(names, places, nobody, 2, 9, 0)


def test_clusters_are_read_as_they_were_written(tmp_path, shots, clusters):
    clusters.save(tmp_path / "clusters.csv")
    read = experts.load_clusters(tmp_path / "clusters.csv", shots)
    assert np.array_equal(read.label, clusters.label) and np.array_equal(read.judge, clusters.judge)
    assert np.allclose(read.membership, clusters.membership, atol=1e-6)
    with pytest.raises(ValueError, match="other shots"):
        experts.load_clusters(tmp_path / "clusters.csv", shots[1:])
    with pytest.raises(FileNotFoundError, match="dvc repro experts"):
        experts.load_clusters(tmp_path / "none.csv", shots)


def test_an_expert_learns_its_cluster_and_leaves_the_rest_alone(tmp_path, model, shots, clusters):
    blind = replace(TERMS, single_image=1.0)  # from the picture alone: evidence is right without any learning
    judged = experts.held_out_batches(clusters.judges(shots, 0), blind)
    plan = Plan(steps=40, **QUICK)
    expert, history = experts.train_expert(model, shots, clusters.sampling(shots, 0), 4, blind, plan, tmp_path, "expert")
    assert len(history) == 40
    assert experts.mean_error(expert.depth_net, judged) < experts.mean_error(model.depth_net, judged)
    for part in ("matcher", "focal_head"):
        pairs = zip(getattr(expert, part).state_dict().values(), getattr(model, part).state_dict().values())
        assert all(torch.equal(a, b) for a, b in pairs)


def test_distillation_loss_is_blind_to_scale_and_listens_to_sure_pixels():
    rng = torch.Generator().manual_seed(0)
    teacher = torch.randn(2, 6, 8, generator=rng)
    sure = torch.zeros(2, 6, 8)
    assert float(distillation.distillation_loss(teacher + torch.tensor([0.7, -2.0])[:, None, None], teacher, sure)) < 1e-6
    student = teacher.clone()
    student[:, 0] += 0.5
    doubtful = sure.clone()
    doubtful[:, 0] = 2.0
    even, gentle = (float(distillation.distillation_loss(student, teacher, std)) for std in (sure, doubtful))
    assert even == pytest.approx(0.5 / 6, rel=1e-4) and gentle < 0.2 * even


def test_distillation_pulls_the_student_to_its_teacher(model):
    """With no evidence to judge by, only the teacher speaks, and the student comes to agree with it."""
    torch.manual_seed(1)
    teacher = ClipNet("tiny").depth_net.eval()
    nn.init.normal_(teacher.head[-1].weight, std=0.3)
    student = experts.copy.deepcopy(model.depth_net)
    frames = torch.rand(4, 3, 4, 6, generator=torch.Generator().manual_seed(0)).repeat_interleave(16, 2).repeat_interleave(16, 3)
    none = DepthEvidence.measured(*(torch.zeros(4, HEIGHT // 2, WIDTH // 2) for _ in range(3)))
    batch = DepthBatch(frames, none, none)
    loss_fn = lambda rng: distillation.asymmetric_terms(student, teacher, batch, TERMS, 1.0)  # noqa: E731
    optimiser = torch.optim.Adam(student.parameters(), 1e-3)
    losses = []
    for step in range(40):
        parts = loss_fn(generator(0, step))
        losses.append(float(parts["distillation"].detach()))
        optimiser.zero_grad()
        parts["loss"].backward()
        optimiser.step()
    assert losses[-1] < 0.5 * losses[0]
    assert all(p.grad is None for p in teacher.parameters())


def test_the_teacher_is_a_running_mean_of_the_student():
    pair = distillation.SelfDistiller(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)), momentum=0.9)
    first = pair.teacher[0].weight.clone()
    with torch.no_grad():
        pair.student[0].weight += 1
    pair.student(torch.randn(8, 2))
    pair.follow()
    assert torch.allclose(pair.teacher[0].weight, first + 0.1)
    assert torch.equal(pair.teacher[1].num_batches_tracked, pair.student[1].num_batches_tracked)
    pair.train()
    assert pair.student.training and not pair.teacher.training
    assert not any(p.requires_grad for p in pair.teacher.parameters())


def distil(folder, model, shots, clusters, steps: int, gradients: str, stop_after: int | None = None):
    """The first phase; `stop_after` kills it in the middle of a step."""
    student = experts.copy.deepcopy(model)
    teachers = [model.depth_net] * clusters.count
    sampling = [clusters.sampling(shots, k) for k in range(clusters.count)]
    done = itertools.count()

    def loss_fn(rng):
        if stop_after is not None and next(done) >= stop_after:
            raise KeyboardInterrupt
        return distillation.cluster_tasks(student.depth_net, teachers, shots, sampling, 2, 4, TERMS, 0.2, rng)

    plan = Plan(steps=steps, gradients=gradients, **QUICK)
    history = train(student.depth_net, loss_fn, plan, folder, "distilling")
    return student.depth_net.state_dict(), history


@pytest.mark.parametrize("gradients", ["pareto", "sum"])
def test_interrupted_distillation_ends_with_the_same_weights(tmp_path, model, shots, clusters, gradients):
    whole, history = distil(tmp_path / "a", model, shots, clusters, 4, gradients)
    with pytest.raises(KeyboardInterrupt):
        distil(tmp_path / "b", model, shots, clusters, 4, gradients, stop_after=3)
    resumed, again = distil(tmp_path / "b", model, shots, clusters, 4, gradients)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert history.equals(again)
    assert ("weight_0" in history) == (gradients == "pareto")


def test_interrupted_self_distillation_ends_with_the_same_student_and_teacher(tmp_path, model, shots):
    def run(folder, stop_after=None):
        pair = distillation.SelfDistiller(experts.copy.deepcopy(model.depth_net), 0.9)
        done = itertools.count()

        def loss_fn(rng):
            if stop_after is not None and next(done) >= stop_after:
                raise KeyboardInterrupt
            return pair.loss(shots, np.array([shot.score for shot in shots]) ** 2, 3, replace(TERMS, single_image=0.5), 0.5, rng)

        train(pair, loss_fn, Plan(steps=4, **QUICK), folder, "self", parameters=pair.student.parameters())
        return pair.state_dict()

    whole = run(tmp_path / "a")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "b", stop_after=3)
    resumed = run(tmp_path / "b")
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert any(not torch.equal(whole[f"student.{n}"], whole[f"teacher.{n}"]) for n, _ in model.depth_net.named_parameters())


def test_a_cluster_without_a_judge_borrows_the_nearest(shots, clusters):
    lonely = replace(clusters, label=np.where(JUDGE, 0, clusters.label))
    (borrowed,) = lonely.judges(shots, 1)
    assert borrowed.name == max(shots[6:], key=lambda s: clusters.membership[shots.index(s), 1]).name


def test_saved_shots_are_loaded_as_they_were(tmp_path, shots):
    finetuning.save_shots(tmp_path, shots[:2])
    loaded = load_shots(tmp_path, tmp_path, tmp_path / "cameras", tmp_path / "stereo")
    assert fingerprint(nn.Identity(), loaded) == experts.fingerprint(nn.Identity(), shots[:2])
    assert all(np.array_equal(a.forward, b.forward) and np.array_equal(a.frames, b.frames) for a, b in zip(loaded, shots))
    assert all(np.array_equal(a.stereo.full, b.stereo.full) and np.array_equal(a.stereo.part, b.stereo.part) for a, b in zip(loaded, shots))


def test_finetuning_never_trains_on_the_held_out_frames(shots):
    shot = shots[0]
    early = finetuning.first_frames(shot, 0.7)
    assert len(early.frames) == 8 and len(early.forward) == len(early.backward) == 7
    (batch,) = finetuning.last_frames([shot], 0.7, TERMS)
    assert len(batch.frames) == 4 and batch.target.weight.max() > 0
    assert len(finetuning.first_frames(replace(shot, stride=4), 0.1).frames) == 5


def test_adaptation_gives_a_learning_curve(tmp_path, model, shots):
    target = shots[:1]
    held_out = finetuning.last_frames(target, 0.7, TERMS)
    early = [finetuning.first_frames(shot, 0.7) for shot in target]
    judge = lambda net: experts.mean_error(net.depth_net, held_out)  # noqa: E731
    adapted, curve = finetuning.adapt(model, finetuning.without_labels(early, 4, TERMS), judge, Plan(steps=8, **QUICK), tmp_path, "adapting")
    assert curve.step.tolist() == [0, 2, 4, 6, 8]
    frozen = freeze_batch_norm_2d(copy.deepcopy(model.depth_net))  # rounds otherwise in bfloat16
    assert curve.error.iloc[0] == pytest.approx(experts.mean_error(frozen, held_out))
    assert curve.error.iloc[-1] == pytest.approx(experts.mean_error(adapted.depth_net, held_out), rel=1e-3)  # bfloat16
    assert finetuning.steps_to_reach(curve, curve.error.iloc[0]) == 0
    assert np.isnan(finetuning.steps_to_reach(curve, 0.0))


@pytest.mark.parametrize("pretrained", [True, False])
def test_a_pretrained_network_keeps_its_batch_normalisation(tmp_path, model, shots, pretrained):
    plan, objective = Plan(steps=2, **QUICK), finetuning.without_labels(shots[:1], 4, TERMS)
    adapted, _ = finetuning.adapt(model, objective, lambda net: 0.0, plan, tmp_path, "adapting", pretrained)
    before, after = model.depth_net.state_dict(), adapted.depth_net.state_dict()
    norms = {name.rpartition(".")[0] for name in before if name.endswith("running_mean")}
    changed = {name for name in before if name.rpartition(".")[2] != "num_batches_tracked" and not torch.equal(before[name], after[name])}
    assert before.keys() == after.keys() and len(norms) > 10
    assert {name.rpartition(".")[0] in norms for name in changed} == ({False} if pretrained else {False, True})


def test_frames_become_a_shot_or_a_reason():
    frames = make_shot("multi_view", 3, frames=16)
    shot = finetuning.frames_shot("kitchen", frames, 0.5)
    assert shot.name == "kitchen" and shot.size == (144, 240) and len(shot.forward) == 16 - shot.stride
    assert shot.stereo.full.shape == (16, 6, 72, 120) and shot.cameras.rotation[1].shape == (16 - shot.stride, 3, 3)
    with pytest.raises(ValueError, match="kitchen: no shot to adapt to .*moving camera"):
        finetuning.frames_shot("kitchen", frames[:1].repeat(16, 0), 0.5)


def test_a_fingerprint_knows_weights_shots_and_settings(model, shots):
    same = fingerprint(model, shots, TERMS)
    assert same == fingerprint(model, shots, TERMS)
    assert same != fingerprint(model, shots[1:], TERMS) and same != experts.fingerprint(model, shots, replace(TERMS, smoothness=1.0))
    other = experts.copy.deepcopy(model)
    next(iter(other.parameters())).data += 1
    assert same != fingerprint(other, shots, TERMS)


def test_sweep_and_matches_of_a_shot_find_its_wall(shots):
    """And the part that a network may see is another, not much worse one."""
    shot = shots[0]
    y, x = np.mgrid[0 : HEIGHT // 2, 0 : WIDTH // 2] * 2 + 0.5
    rays = np.stack([(x - (WIDTH - 1) / 2) / FOCAL_PX, (y - (HEIGHT - 1) / 2) / FOCAL_PX, np.ones_like(x)], -1)
    for k in (3, 7):
        truth = np.log(rays @ [0.1, 0.15, 0.25] / (1 - 0.03 * k))
        for maps in (shot.stereo.full, shot.stereo.part):
            assert np.median(np.abs(maps[k, 0] - truth)) < 0.08
            assert (sure := maps[k, 4] > 0.3).mean() > 0.3 and np.median(np.abs(maps[k, 3] - truth)[sure]) < 0.03
    assert not np.array_equal(shot.stereo.full[:, :3], shot.stereo.part[:, :3])
    assert not np.array_equal(shot.stereo.full[:, 3:], shot.stereo.part[:, 3:])


def test_what_is_kept_of_a_shot_is_the_evidence_of_its_pairs(shots):
    shot, starts = shots[0], [3, 7]
    seen = correspondences([shot] * 2, starts, frames_tensor([shot.frames[k] for k in starts]))
    found = triangulate(seen)
    kept = torch.from_numpy(shot.stereo.full[starts, 3:]).float()
    for ours, theirs in zip(kept.unbind(1), (found.log_inverse_depth, found.weight, found.moving), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-3, rtol=1e-3)
    batch = make_batch([shot] * 2, starts, Terms(single_image=0.0), generator(0, 0))
    assert float(batch.given.weight.mean()) < float(batch.target.weight.mean())
    assert torch.equal(batch.given.weight, make_batch([shot] * 2, starts, Terms(single_image=0.0), generator(0, 0)).given.weight)
