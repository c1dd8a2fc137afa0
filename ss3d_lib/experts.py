"""Sub-domains found without labels, an expert for each, and how models are compared on them (notebook 05)."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from torch import Tensor, nn

from ss3d_lib.data import Shot, frames_tensor, generator
from ss3d_lib.joint import DepthBatch, Terms, joint_loss, make_batch
from ss3d_lib.losses import resize_map, triangulation_loss
from ss3d_lib.models import ClipNet
from ss3d_lib.models.depth import EVIDENCE_CHANNELS
from ss3d_lib.models.triangulation import as_channels
from ss3d_lib.training import Plan, fingerprint, train

FRAMES_PER_SHOT, JUDGED_FRAMES = 4, 8  # frames that describe a shot, and that judge a model on it
APPEARANCE_DIMS = 8  # principal components of the encoder's features; more is noise with a few hundred shots
SOFTNESS = 0.5  # width of the memberships over the clusters' own: a typical shot is to 85 % its own cluster's
HELD_OUT_SEED = 1_000_003  # the degradation of the held-out images is the same for every model and stage


@dataclass(frozen=True)
class Clusters:
    """Sub-domains of S shots: each shot's cluster, how much it belongs to each, and which shots only judge."""

    names: tuple[str, ...]
    label: np.ndarray  # (S,) int, cluster 0 has the most training shots
    membership: np.ndarray  # (S, K), rows sum to 1
    judge: np.ndarray  # (S,) bool: of videos that no network is trained on

    @property
    def count(self) -> int:
        """Number of clusters K."""
        return self.membership.shape[1]

    def sampling(self, shots: Sequence[Shot], cluster: int) -> np.ndarray:
        """Sampler weights (S,) of one cluster: membership times score, none for the judges."""
        return self.membership[:, cluster] * np.array([shot.score for shot in shots]) * ~self.judge

    def judges(self, shots: Sequence[Shot], cluster: int) -> list[Shot]:
        """The judges in one cluster; where there is none, the one that belongs to it most."""
        chosen = self.judge & (self.label == cluster)
        if not chosen.any():
            chosen[np.where(self.judge, self.membership[:, cluster], -1).argmax()] = True
        return [shot for shot, mine in zip(shots, chosen) if mine]

    def save(self, path: Path) -> None:
        """One row per shot: shot, cluster, judge (0 or 1), and weight_0 ... its memberships."""
        table = pd.DataFrame({"shot": self.names, "cluster": self.label, "judge": self.judge.astype(int)})
        for cluster in range(self.count):
            table[f"weight_{cluster}"] = self.membership[:, cluster]
        table.to_csv(path, index=False, float_format="%.6f")


def load_clusters(path: str | Path, shots: Sequence[Shot]) -> Clusters:
    """Read clusters.csv.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it was written for other shots.
    """
    if not Path(path).exists():
        raise FileNotFoundError(f"{path} is missing: run `dvc repro experts` first")
    table = pd.read_csv(path)
    if table.shot.tolist() != [shot.name for shot in shots]:
        raise ValueError(f"{path} lists other shots than are here now: run `dvc repro experts` again")
    weights = table[[name for name in table if name.startswith("weight_")]].to_numpy()
    return Clusters(tuple(table.shot), table.cluster.to_numpy(), weights, table.judge.to_numpy().astype(bool))


@torch.no_grad()
def appearance(model: ClipNet, shot: Shot) -> np.ndarray:
    """Mean over a few frames of the depth encoder's coarsest features (C,), from the images alone."""
    index = np.linspace(0, len(shot.frames) - 1, FRAMES_PER_SHOT).round().astype(int)
    frames = frames_tensor([shot.frames[i] for i in index])
    height, width = shot.size
    features = model.depth_net.encode(frames, torch.zeros(len(frames), EVIDENCE_CHANNELS, height // 2, width // 2))
    return features[-1].float().mean((0, 2, 3)).numpy()


def camera_facts(shot: Shot) -> np.ndarray:
    """What stage 1 and the flow say of one shot (4,): log focal length in image widths, share of the motion along
    the view, log rotation per stride in rad, log flow in image widths."""
    rotation, translation = shot.cameras.rotation[1], shot.cameras.translation[1]
    trust = 1 - shot.cameras.residual[1] + 1e-3
    cosine = ((np.trace(rotation, axis1=1, axis2=2) - 1) / 2).clip(-1, 1)
    flow_px = np.linalg.norm(shot.forward[:, ::8, ::8].astype(np.float32), axis=-1).mean()
    lengths = np.linalg.norm(translation, axis=1).clip(1e-9)
    along = np.average(np.abs(translation[:, 2]) / lengths, weights=trust)
    turned_rad = np.average(np.arccos(cosine), weights=trust)
    width = shot.size[1]
    return np.array([np.log(shot.cameras.focal_px / width), along, np.log(turned_rad + 1e-3), np.log(flow_px / width + 1e-3)])


def describe(model: ClipNet, shots: Sequence[Shot], judge: np.ndarray) -> np.ndarray:
    """Descriptors (S, D) of shots: appearance and camera, each block with a total variance of 1. No label is read.

    Components, means and variances are of the training shots; the judges (a mask over the shots) are only described.
    """
    features = np.stack([appearance(model, shot) for shot in shots])
    facts = np.stack([camera_facts(shot) for shot in shots])
    learnt = ~judge
    dims = min(APPEARANCE_DIMS, learnt.sum(), features.shape[1])
    seen = PCA(dims, svd_solver="full").fit(features[learnt]).transform(features)
    facts = facts / (facts[learnt].std(0) + 1e-6)
    unit = lambda block: (block - block[learnt].mean(0)) / np.sqrt(block[learnt].var(0).sum() + 1e-12)  # noqa: E731
    return np.hstack([unit(seen), unit(facts)])


def find_clusters(names: Sequence[str], descriptors: np.ndarray, judge: np.ndarray, count: int, min_shots: int, seed: int) -> Clusters:
    """k-means with at most `count` clusters of at least `min_shots` training shots, the largest first.

    A few odd shots do not use up a cluster: those of one too small are set aside while the centres are sought (as in
    trimmed k-means), and join the nearest in the end. Only where that leaves too few shots is a cluster given up.

    A shot also belongs a little to other clusters: a Gaussian in the distance to their centres, half as wide as
    the clusters are. The judges (a mask over the shots) have no say in where the centres lie.

    Raises:
        ValueError: fewer training shots than min_shots.
    """
    training = np.flatnonzero(~judge)
    if len(training) < max(1, min_shots):
        raise ValueError(f"{len(training)} shots are fewer than min_shots={min_shots}: add videos or lower experts.min_shots")
    clusters, core = count, training
    while True:
        fit = KMeans(clusters, n_init=10, random_state=seed).fit(descriptors[core])
        sizes = np.bincount(fit.labels_, minlength=clusters)
        if sizes.min() >= min_shots:
            break
        core = core[fit.labels_ != sizes.argmin()]
        if len(core) < clusters * min_shots:
            clusters, core = clusters - 1, training
    square = ((descriptors[:, None] - fit.cluster_centers_[None]) ** 2).sum(-1)
    order = np.argsort(-np.bincount(square.argmin(1)[training], minlength=clusters), kind="stable")
    square = square[:, order]
    label = square.argmin(1)
    width = SOFTNESS**2 * np.median(square.min(1)) + 1e-12
    log_weight = -(square - square.min(1, keepdims=True)) / (2 * width)
    membership = np.exp(log_weight)
    return Clusters(tuple(names), label, membership / membership.sum(1, keepdims=True), judge)


def train_expert(
    model: ClipNet, shots: list[Shot], weights: np.ndarray, images: int, terms: Terms, plan: Plan, folder: Path, label: str
) -> tuple[ClipNet, pd.DataFrame]:
    """A copy of the model with its depth network fine-tuned on shots drawn by weight; and the history."""
    expert = copy.deepcopy(model)
    loss_fn = lambda rng: joint_loss(expert, shots, weights, images, terms, rng)  # noqa: E731
    history = train(expert.depth_net, loss_fn, plan, folder, label, fingerprint=fingerprint(model, shots, weights, images, terms))
    return expert, history


@torch.no_grad()
def held_out_batches(shots: Sequence[Shot], terms: Terms, per_shot: int = JUDGED_FRAMES) -> list[DepthBatch]:
    """Images spread over each shot, one batch a shot, with evidence degraded alike for whoever is judged."""
    batches = []
    for index, shot in enumerate(shots):
        starts = np.linspace(0, len(shot.frames) - 1, per_shot + 2).round().astype(int)[1:-1].tolist()
        batches.append(make_batch([shot] * per_shot, starts, terms, generator(HELD_OUT_SEED, index)))
    return batches


@torch.no_grad()
def mean_error(depth_net: nn.Module, batches: Sequence[DepthBatch]) -> float:
    """Mean |log error| of depth against all the evidence, the image's scale removed: the label-free yardstick."""
    was_training = depth_net.training
    depth_net.eval()
    errors = []
    for batch in batches:
        log_inverse = infer(depth_net, batch)
        errors.append(float(triangulation_loss(resize_map(log_inverse, batch.target.weight.shape[-2:]), batch.target)))
    depth_net.train(was_training)
    return float(np.mean(errors))


def infer(depth_net: nn.Module, batch: DepthBatch) -> Float[Tensor, "B a b"]:
    """Log inverse depth of a batch from the evidence that it gives."""
    return depth_net(batch.frames, as_channels(batch.given))[0]
