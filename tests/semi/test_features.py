"""Channel dropout: whole channels, the right share, and masks that belong to the sample."""

import pytest
import torch

from delineate.semi.features import channel_dropout


def maps(samples=4):
    return [torch.randn(samples, 6, 5, 4), torch.randn(samples, 9, 3, 2)]


def kept(found, features):
    """Which channels are left, (N, C); every voxel of a channel agrees."""
    left = (found != 0).flatten(2)
    assert (left.all(2) == left.any(2)).all()
    assert (features != 0).all()
    return left.all(2)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.8])
def test_whole_channels_scaled(share):
    features = maps()
    for found, given in zip(channel_dropout(features, share, torch.arange(4)), features, strict=True):
        expected = given * kept(found, given)[..., None, None] / (1 - share)
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.8])
def test_the_share_is_dropped_and_the_mean_stays(share):
    x = torch.ones(40, 500, 1)
    [found] = channel_dropout([x], share, torch.arange(40))
    assert (found == 0).double().mean().item() == pytest.approx(share, abs=0.01)
    assert found.mean().item() == pytest.approx(1, abs=0.05)
    patterns = {tuple(row) for row in (found[..., 0] != 0).tolist()}
    assert len(patterns) == 40


def test_masks_depend_on_the_sample_alone():
    features, seeds = maps(), torch.tensor([11, -5, 2**40, 7])
    found = channel_dropout(features, 0.5, seeds)
    order = torch.tensor([2, 0, 3])
    torch.manual_seed(99)
    part = channel_dropout([feature[order] for feature in features], 0.5, seeds[order])
    for whole, some in zip(found, part, strict=True):
        assert torch.equal(whole[order], some)


def test_one_seed_is_one_mask_and_maps_differ():
    x = torch.ones(2, 64, 3)
    one, two = channel_dropout([x, x], 0.5, torch.tensor([5, 5]))
    assert torch.equal(one[0], one[1])
    assert not torch.equal(one, two)


def test_the_global_random_state_is_left_alone():
    features, state = maps(), torch.get_rng_state()
    channel_dropout(features, 0.5, torch.arange(4))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("seeds", [torch.arange(4), torch.arange(4, dtype=torch.int32)])
def test_share_zero_gives_the_maps_themselves(seeds):
    features = maps()
    assert all(one is other for one, other in zip(channel_dropout(features, 0, seeds), features, strict=True))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("space", [(3,), (3, 2), (2, 3, 2)], ids=["1d", "2d", "3d"])
def test_gradients_and_kinds(dtype, space):
    x = torch.randn(3, 8, *space).to(dtype).requires_grad_()
    before = x.detach().clone()
    [found] = channel_dropout([x], 0.5, torch.arange(3))
    (grad,) = torch.autograd.grad(found.sum(), x)
    assert found.dtype == dtype
    assert torch.equal(grad, 2.0 * (found != 0).to(dtype))
    assert torch.equal(x, before)
    assert 0 < (grad == 0).double().mean() < 1


def test_nothing_to_drop():
    assert channel_dropout([], 0.5, torch.arange(3)) == []
    [found] = channel_dropout([torch.zeros(0, 4, 2)], 0.5, torch.arange(0))
    assert found.shape == (0, 4, 2)


@pytest.mark.parametrize(
    ("share", "seeds", "words"),
    [
        (1, torch.arange(4), "share.*1"),
        (-0.1, torch.arange(4), "share.*-0.1"),
        (float("nan"), torch.arange(4), "share.*nan"),
        (0.5, torch.arange(3), r"seeds.*4.*\(3,\)"),
        (0.5, torch.arange(4)[:, None], r"seeds.*\(4, 1\)"),
        (0.5, torch.rand(4), "seeds.*float32"),
    ],
)
def test_refusals(share, seeds, words):
    with pytest.raises(ValueError, match=words) as error:
        channel_dropout(maps(), share, seeds)
    assert "\n" not in str(error.value)
