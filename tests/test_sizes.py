"""Sizes `base` and `paper`: that they run, train and are saved like `tiny`; what the second lets a frame see of the others."""

from dataclasses import replace

import pytest
import torch
from test_distillation import TERMS, made_shot
from test_models import WORKING_SIZES, clip

from ss3d_lib import joint
from ss3d_lib.checkpoints import load_model, save_model
from ss3d_lib.data import generator
from ss3d_lib.models import ClipNet
from ss3d_lib.models.depth import EVIDENCE_CHANNELS, DepthNet
from ss3d_lib.models.vit import STRIDES, ClipViT
from ss3d_lib.training import Plan, train

CHANNELS = 3 + EVIDENCE_CHANNELS


@pytest.fixture(scope="module")
def model() -> ClipNet:
    torch.manual_seed(0)
    return ClipNet("paper").eval()


@pytest.fixture
def trunk() -> ClipViT:
    """A small one whose residual branches weigh as after a training, not 1 %."""
    torch.manual_seed(0)
    small = ClipViT(CHANNELS, width=48, pairs=2, heads=3).eval()
    for name, parameter in small.named_parameters():
        if name.endswith("gamma"):
            torch.nn.init.ones_(parameter)
    return small


def frames(count: int, height: int = 64, width: int = 96) -> torch.Tensor:
    return torch.rand(count, CHANNELS, height, width, generator=torch.Generator().manual_seed(count))


# --- the trunk --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(32, 32), (96, 160), (160, 96)], ids=str)
def test_maps_have_the_strides_and_channels_that_the_decoder_is_told(trunk, size):
    maps = trunk(frames(2, *size), 2)
    for found, channels, stride in zip(maps, trunk.feature_info.channels(), trunk.feature_info.reduction(), strict=True):
        assert found.shape == (2, channels, size[0] // stride, size[1] // stride)
    assert tuple(trunk.feature_info.reduction()) == STRIDES


@torch.no_grad()
def test_a_frame_sees_the_others_of_its_clip_and_nothing_else(trunk):
    before = frames(6)
    after = before.clone()
    after[1] = 1 - after[1]  # the second frame of the first clip
    changed = (trunk(after, 3)[-1] - trunk(before, 3)[-1]).abs().amax((1, 2, 3))
    assert (changed[:3] > 1e-5).all(), "global attention mixes the frames of a clip"
    assert (changed[3:] == 0).all(), "and no others"
    changed = (trunk(after)[-1] - trunk(before)[-1]).abs().amax((1, 2, 3))
    assert changed[1] > 1e-3 and (changed[[0, 2, 3, 4, 5]] == 0).all(), "images one by one see themselves"


@torch.no_grad()
def test_only_global_attention_crosses_frames(trunk):
    """Without it a clip is what its frames are one by one."""
    given = frames(3)
    for block in trunk.global_blocks:
        torch.nn.init.zeros_(block.ls1.gamma)
    torch.testing.assert_close(trunk(given, 3)[-1], trunk(given)[-1], atol=1e-5, rtol=0)


@torch.no_grad()
def test_no_frame_is_special(trunk):
    given, order = frames(4), torch.tensor([2, 0, 3, 1])
    for permuted, found in zip(trunk(given[order], 4), trunk(given, 4)):
        torch.testing.assert_close(permuted, found[order], atol=1e-5, rtol=0)


@torch.no_grad()
def test_places_in_a_frame_are_told_apart(trunk):
    flat = trunk(torch.full((1, CHANNELS, 96, 160), 0.5))[-1][0]
    inner = flat[:, 1:-1, 1:-1].flatten(1)  # zero padding tells borders apart
    assert torch.cdist(inner.T, inner.T).fill_diagonal_(1).min() > 1e-3


def test_every_weight_of_the_trunk_gets_a_gradient(trunk):
    trunk.train()(frames(4), 2)[-1].square().mean().backward()
    for name, parameter in trunk.named_parameters():
        assert torch.isfinite(parameter.grad).all() and parameter.grad.abs().sum() > 0, name


# --- the network ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", WORKING_SIZES, ids=str)
def test_one_forward_pass_gives_everything_at_every_working_size(model, size):
    with torch.no_grad():
        out = model(clip(2, *size))
    assert out.depth.shape == out.log_depth_std.shape == out.moving.shape == (1, 2, *size)
    assert (out.depth > 0).all() and torch.isfinite(out.depth).all() and torch.isfinite(out.focal_px).all()


@pytest.mark.parametrize("count", [2, 3, 5])
def test_clips_of_any_length(model, count):
    with torch.no_grad():
        out = model(clip(count, 64, 96, clips=2))
    assert out.depth.shape == (2, count, 64, 96) and out.tgt_from_src.shape == (2, count - 1, 4, 4)
    torch.testing.assert_close(out.depth[0], out.depth[1], rtol=0.05, atol=0)


@torch.no_grad()
def test_depth_of_a_frame_listens_to_its_clip_only():
    torch.manual_seed(0)
    net = DepthNet("paper").eval()
    for name, value in net.encoder.named_parameters():
        if name.endswith("gamma"):  # layer scale: at its start a frame hardly hears the others
            torch.nn.init.ones_(value)
    shown, nothing = torch.rand(3, 3, 64, 96), torch.zeros(3, EVIDENCE_CHANNELS, 32, 48)
    other = torch.cat([shown[:1], 1 - shown[1:2], shown[2:]])
    together, alone = ([net.encode(x, nothing, count)[-1] for x in (shown, other)] for count in (3, 1))
    assert (together[0][0] - together[1][0]).abs().max() > 1e-3
    assert torch.equal(alone[0][0], alone[1][0])


def test_a_checkpoint_gives_back_the_same_network(model, tmp_path):
    save_model(model, tmp_path / "model.safetensors")
    again = load_model(tmp_path / "model.safetensors")
    with torch.no_grad():
        assert again.size == "paper" and torch.equal(model(clip(2, 64, 96)).depth, again(clip(2, 64, 96)).depth)


@torch.no_grad()
def test_size_base_is_the_same_network_with_a_larger_encoder(tmp_path):
    torch.manual_seed(0)
    tiny, base = ClipNet("tiny").eval(), ClipNet("base").eval()
    weights = lambda net: sum(p.numel() for p in net.parameters())  # noqa: E731
    assert 1.5 * weights(tiny) < weights(base) < weights(ClipNet("paper"))
    assert base.matcher.state_dict().keys() == tiny.matcher.state_dict().keys()
    save_model(base, tmp_path / "model.safetensors")
    again = load_model(tmp_path / "model.safetensors")
    out = base(clip(3, 64, 96))
    assert out.depth.shape == (1, 3, 64, 96) and torch.isfinite(out.depth).all()
    assert again.size == "base" and torch.equal(out.depth, again(clip(3, 64, 96)).depth)


@pytest.mark.parametrize("size", ["base", "paper"])
def test_training_lowers_the_loss_of_a_made_shot_from_pictures_alone(tmp_path, size):
    torch.manual_seed(0)
    net, shot = ClipNet(size), made_shot(0, along=False)
    blind = replace(TERMS, single_image=1.0)  # evidence is right without any learning
    batch = joint.make_batch([shot] * 4, [0, 4, 8, 11], blind, generator(0, 0))
    plan = Plan(20, warmup_steps=4)
    history = train(net.depth_net, lambda rng: joint.depth_terms(net, batch, blind), plan, tmp_path, size)
    assert history.triangulation.iloc[-1] < 0.5 * history.triangulation.iloc[0]


def test_a_size_that_is_none_is_refused_in_words():
    with pytest.raises(ValueError, match="no network of size 'papr': give tiny, base, paper or"):
        ClipNet("papr")
