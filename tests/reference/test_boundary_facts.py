"""The references by boundary and by structure against values worked out by hand."""

import numpy as np
import pytest
import torch

from reference import boundary as B
from reference import structure as S
from reference.grids import diagonal, distance_to, distance_to_other, grids

VOID = 255
BY_CLASS = (
    B.boundary_loss,
    B.hausdorff_dt_loss,
    B.hausdorff_erosion_loss,
    B.hausdorff_conv_loss,
    B.weighted_hausdorff_loss,
    B.average_hausdorff_loss,
    B.generalized_surface_loss,
    B.boundary_dou_loss,
    S.soft_cldice_loss,
)
BY_VOXEL = (B.distance_penalized_ce_loss, B.shape_aware_loss, S.structural_similarity_loss, S.rmi_loss)


def line(labels, sure=None):
    """One sample, one channel: logits of p = 1/2, or of the sure prediction given, and the labels."""
    labels = np.array([labels])
    z = np.zeros((1, *labels.shape)) if sure is None else 2e4 * np.array([[sure]]) - 1e4
    return z, labels


def scene(*shape, seed=0):
    g = np.random.default_rng(seed)
    return 2 * g.normal(size=(3, 3, *shape)), g.integers(0, 3, (3, *shape)), g.random((3, *shape))


def own(loss):
    return {"downsample": 1, "radius": 2} if loss is S.rmi_loss else {}


def test_distances_with_spacing():
    (s,) = grids(np.zeros((1, 1, 2, 3)), np.array([[[1, 0, 0], [0, 0, 0]]]), mode="sigmoid")
    expected = [[0, 1, 2], [3, 10**0.5, 13**0.5]]
    np.testing.assert_allclose(distance_to(s, s.g[0], (3, 1)), expected)
    np.testing.assert_allclose(distance_to_other(s, s.g[0], (3, 1)), [[1, 1, 2], expected[1]])
    np.testing.assert_allclose(distance_to(s, s.g[0] & False, empty=7.0), np.full((2, 3), 7.0))
    assert diagonal((2, 3, 1), (3, 1, 9)) == pytest.approx(45**0.5)


def test_distances_pass_through_ignored_voxels_and_never_end_there():
    (s,) = grids(*line([1, VOID, VOID, 0, 0]), mode="sigmoid", ignore_index=VOID)
    np.testing.assert_allclose(distance_to_other(s, s.g[0]), [3, 0, 0, 3, 4])


@pytest.mark.parametrize(
    ("own", "expected"),
    [
        ({}, 6 / 5),  # 2 1 0 1 2
        ({"inside": "plain"}, 5 / 5),  # 2 1 -1 1 2
        ({"spacing": [3]}, 18 / 5),
        ({"spacing": [3], "inside": "plain"}, 15 / 5),
        ({"spacing": [3], "scale_free": True}, 18 / 5 / 15),
    ],
    ids=str,
)
def test_boundary_of_one_voxel(own, expected):
    z, y = line([0, 0, 1, 0, 0])
    assert B.boundary_loss(z, y, mode="sigmoid", **own) == pytest.approx(expected / 2)
    if "spacing" in own:
        own = {**own, "spacing": [0.5, 3]}
    assert B.boundary_loss(z[:, :, None], y[:, None], mode="sigmoid", **own) == pytest.approx(expected / 2)


def test_boundary_of_full_and_empty_masks():
    full, empty = line([1, 1, 1]), line([0, 0, 0])
    for inside in ("official", "plain"):
        assert B.boundary_loss(*full, mode="sigmoid", inside=inside) == pytest.approx(-1 / 2)
        assert B.boundary_loss(*empty, mode="sigmoid", inside=inside) == pytest.approx(1 / 2)


def test_hausdorff_dt_by_hand():
    """(p - y)^2 = 1/4; squared distances to the other side of the target 1 1 4, of an empty prediction 1 1 1."""
    batch = line([1, 0, 0])
    assert B.hausdorff_dt_loss(*batch, mode="sigmoid", one_sided=True) == pytest.approx(6 / 12)
    assert B.hausdorff_dt_loss(*batch, mode="sigmoid") == pytest.approx(9 / 12)
    assert B.hausdorff_dt_loss(*batch, mode="sigmoid", scale_free=True) == pytest.approx(9 / 12 / 9)
    assert B.hausdorff_dt_loss(*batch, mode="sigmoid", alpha=1) == pytest.approx((4 + 3) / 12)


def test_hausdorff_erosion_by_hand():
    """A residual of 1. Line: 1/6 1/2 1/6, scaled 0 1 0, then nothing. Square: corners .1, edges .3, centre .5,
    scaled 0 1/2 1; then the centre alone has (1 + 4/2) / 5 - 1/2 = .1, scaled 1, times 2^alpha."""
    missed = line([1, 1, 1], [0, 0, 0])
    assert B.hausdorff_erosion_loss(*missed, mode="sigmoid") == pytest.approx(1 / 3)
    assert B.hausdorff_erosion_loss(*missed, mode="sigmoid", rescale=False) == pytest.approx(5 / 18)
    square = np.full((1, 1, 3, 3), -1e4), np.ones((1, 3, 3), int)
    assert B.hausdorff_erosion_loss(*square, mode="sigmoid") == pytest.approx(3 / 9 + 4 / 9)
    assert B.hausdorff_erosion_loss(*square, mode="sigmoid", erosions=1) == pytest.approx(3 / 9)


def test_hausdorff_conv_by_hand():
    """All missed, so two terms count. Shares of the ball of 3: 2/3 1 1 1 2/3, of the ball of 7: 4/7 5/7 5/7 5/7 4/7."""
    missed = line([1] * 5, [0] * 5)
    near, far = 2 * (1 / 6 + 3 / 2 + 1 / 6) / 5, 2 * 9 * (1 / 14 + 9 / 14 + 1 / 14) / 5
    for radii, expected in (((1,), near), ((1, 3), near + far), ((1, 5), near), ((7, 5), 0.0)):
        assert B.hausdorff_conv_loss(*missed, mode="sigmoid", radii=radii) == pytest.approx(expected)


def test_hausdorff_conv_ball():
    """Radius 1 in the plane has 5 voxels: a missed 3 x 3 square keeps 3/5, 4/5 and 1 at corners, edges and centre."""
    square = np.full((1, 1, 3, 3), -1e4), np.ones((1, 3, 3), int)
    expected = 2 * (4 * 0.1 + 4 * 0.3 + 0.5) / 9
    assert B.hausdorff_conv_loss(*square, mode="sigmoid", radii=(1,)) == pytest.approx(expected)


def test_weighted_hausdorff_by_hand():
    """Found one voxel off: it is 1 away; the target voxel sees 3 1 3 (3 where nothing is predicted)."""
    loss = B.weighted_hausdorff_loss
    assert loss(*line([1, 0, 0], [1, 0, 0]), mode="sigmoid") == pytest.approx(0, abs=1e-5)
    assert loss(*line([1, 0, 0], [0, 1, 0]), mode="sigmoid") == pytest.approx(1 + 9 / 5, abs=1e-5)
    assert loss(*line([1, 0, 0], [0, 1, 0]), mode="sigmoid", scale_free=True) == pytest.approx(14 / 15, abs=1e-5)
    # four target voxels, of which 0 and 2 are kept: d / 2 + 4 / 2 is 2 2.5 3 3.5 and 3 2.5 2 2.5
    one, other = 4 / (1 / 2 + 2 / 5 + 1 / 3 + 2 / 7), 4 / (1 / 3 + 2 / 5 + 1 / 2 + 2 / 5)
    assert loss(*line([1] * 4), mode="sigmoid", max_points=2) == pytest.approx((one + other) / 2, abs=1e-5)


def test_average_hausdorff_by_hand():
    """The predicted voxel is 2 from the target, whose voxels are 3 and 2 from it."""
    batch = line([1, 1, 0, 0], [0, 0, 0, 1])
    cases = (
        ({}, 4.5 / 2),
        ({"combine": "max"}, 2.5),
        ({"combine": "sum"}, 4.5),
        ({"combine": "sum", "balanced": True}, 2 / 2 + 2.5),
        ({"combine": "sum", "spacing": [3]}, 13.5),
        ({"combine": "sum", "scale_free": True}, 4.5 / 4),
    )
    for options, expected in cases:
        assert B.average_hausdorff_loss(*batch, mode="sigmoid", **options) == pytest.approx(expected)
    missed = line([1, 1, 0, 0], [0, 0, 0, 0])
    assert B.average_hausdorff_loss(*missed, mode="sigmoid", combine="sum") == pytest.approx(4)


def test_generalized_surface_at_perfect_inverted_and_undecided_predictions():
    y = [0, 1, 1, 0, 0]
    for sure, expected in ((y, 0), ([1, 0, 0, 1, 1], 1), (None, 3 / 4)):
        assert B.generalized_surface_loss(*line(y, sure), mode="sigmoid") == pytest.approx(expected)


@pytest.mark.parametrize("margin", [0, 1])
def test_boundary_dou_of_half_a_square(margin):
    """100 voxels, 36 of them at the edge: a = 1 - 72/100. Half of them found: (50 + 100 - 100) / (150 - 1.28 * 50)."""
    y = np.pad(np.ones((10, 10), int), margin)
    found = y.copy()
    found[5 + margin :] = 0
    z = 2e4 * found - 1e4
    assert B.boundary_dou_loss(z[None, None], y[None], mode="sigmoid") == pytest.approx(50 / 86)


def test_boundary_dou_bounds_its_factor():
    """Two of 40 voxels at the edge: .9, at most .8. All eight but one of 9: below 0."""
    batch = line([1] * 40, [1] * 20 + [0] * 20)
    assert B.boundary_dou_loss(*batch, mode="sigmoid") == pytest.approx(20 / (60 - 1.8 * 20))
    y = np.ones((1, 3, 3), int)
    z = np.where(np.arange(9).reshape(1, 1, 3, 3) < 3, 1e4, -1e4)
    assert B.boundary_dou_loss(z, y, mode="sigmoid") == pytest.approx(6 / (12 - 3))


def test_skeleton_of_a_bar():
    bar = np.zeros((5, 7))
    bar[1:4, 1:6] = 1
    middle = np.zeros((5, 7))
    middle[2, 2:5] = 1
    everywhere = np.full(bar.shape, True)
    for iterations in (1, 10, None):
        np.testing.assert_array_equal(S.soft_skeleton(bar, everywhere, iterations), middle)
    assert not S.soft_skeleton(bar, everywhere, 0).any()
    np.testing.assert_array_equal(S.soft_skeleton(everywhere * 1.0, everywhere), 1)
    assert not S.soft_skeleton(everywhere * 1.0, everywhere, 10).any()
    # cut out by ignored voxels, the bar is an image of its own
    np.testing.assert_array_equal(S.soft_skeleton(bar, bar > 0), bar)


def test_soft_cldice_of_a_missed_bar():
    """Three voxels of skeleton: precision 1/1, sensitivity 1/4."""
    bar = np.zeros((1, 5, 7), int)
    bar[:, 1:4, 1:6] = 1
    assert S.soft_cldice_loss(2e4 * bar[None] - 1e4, bar, mode="sigmoid") == pytest.approx(0)
    missed = np.full((1, 1, 5, 7), -1e4)
    assert S.soft_cldice_loss(missed, bar, mode="sigmoid") == pytest.approx(1 - 2 * 0.25 / 1.25)


def test_skeleton_recall_by_hand():
    z, y = np.zeros((2, 2, 4)), np.array([[1, 1, 0, 0], [0, 0, 0, 0]])
    tubes = np.stack([1 - y, y], 1)
    ours = S.skeleton_recall_loss(z, y, tubes=tubes, reduction="none")
    np.testing.assert_allclose(ours, [1 - 2 / 3, 0])
    assert S.skeleton_recall_loss(z, y, tubes=tubes) == pytest.approx(1 / 6)
    both = S.skeleton_recall_loss(z, y, tubes=tubes, mode="sigmoid", reduction="none", smooth=0)
    np.testing.assert_allclose(both, [1 / 2, 1 / 2])


def test_distance_penalized_ce_by_hand():
    """Distances 3 2 1 | 1 2: penalties 0 1/2 1 | 1 0."""
    y = np.array([[0, 0, 0, 1, 1]])
    for labels, expected in ((y, 1.5), (np.array([[0, 1, 0]]), 2), (0 * y, 1)):
        z = np.zeros((1, 2, labels.shape[1]))
        assert B.distance_penalized_ce_loss(z, labels) == pytest.approx(expected * np.log(2))
        assert B.distance_penalized_ce_loss(z[:, :1], labels, mode="sigmoid") == pytest.approx(expected * np.log(2))


def test_shape_aware_by_hand():
    """Nothing is above 1/2, so the two voxels labelled 1 are wrong, 1 and 2 from the other side."""
    y, z = np.array([[0, 0, 0, 1, 1]]), np.zeros((1, 2, 5))
    for options, factor in (({}, 1), ({"spacing": [3]}, 3), ({"scale_free": True}, 1 / 5)):
        expected = (1 + factor * 3 / 2) * np.log(2)
        assert B.shape_aware_loss(z, y, **options) == pytest.approx(expected)
        assert B.shape_aware_loss(z[:, :1], y, mode="sigmoid", **options) == pytest.approx(expected)
    assert B.shape_aware_loss(z, 0 * y) == pytest.approx(np.log(2))
    assert B.shape_aware_loss(z, 0 * y + 1) == pytest.approx(2 * np.log(2))


def test_structural_similarity_sees_nothing_in_flat_regions():
    z, y = np.full((1, 1, 5, 5), -3.7), np.ones((1, 5, 5), int)
    cost = np.log1p(np.exp(3.7))
    assert S.structural_similarity_loss(z, y, ce_weight=0.0) == 0
    assert S.structural_similarity_loss(z, y) == pytest.approx(cost / 2)


def test_structural_similarity_by_hand():
    """Windows of the reflected line 1 [0 1 0] 1: means 2/3 1/3 2/3, deviation sqrt(2)/3; those of p are flat."""
    batch, sigma = line([0, 1, 0]), 2**0.5 / 3
    side, centre = 1 - (-2 / 3 + 0.01) / (sigma + 0.01), (2 / 3 + 0.01) / (sigma + 0.01) - 1
    own = {"ce_weight": 0.0, "window_sigma": 1e9}
    ours = S.structural_similarity_loss(*batch, **own)
    assert ours == pytest.approx((2 * side + centre) / 3 * np.log(2))
    assert S.structural_similarity_loss(*batch, **own, threshold=0.5) == pytest.approx(side * np.log(2))


def test_structural_similarity_beside_ignored_voxels():
    """Left out: both windows are 0 1, of mean and deviation 1/2, and the second voxel has 1 - 1 = 0, as a flat p has.
    Kept as 0: windows 0 0 1 and 0 1 0 of y, 0 1/2 1/2 and 1/2 1/2 0 of p, with half the deviation."""
    own = {"ce_weight": 0.0, "window_sigma": 1e9, "threshold": 0.0}
    between = line([VOID, 0, 1, VOID])
    ours = S.structural_similarity_loss(*between, **own, ignore_index=VOID)
    assert ours == pytest.approx((1 - (-1 / 2 + 0.01) / 0.51) * np.log(2))
    sigma = 2**0.5 / 3
    of_p = (1 / 6 + 0.01) / (sigma / 2 + 0.01)
    expected = sum(abs((y - 1 / 3 + 0.01) / (sigma + 0.01) - of_p) for y in (0, 1)) / 2 * np.log(2)
    for batch, options in ((between, {"ignored": "zero"}), (line([0, 1]), {"padding": "zeros"})):
        ours = S.structural_similarity_loss(*batch, **own, ignore_index=VOID, **options)
        assert ours == pytest.approx(expected)


def test_structural_similarity_with_one_threshold_for_the_batch():
    """Beside a map that follows its labels against them (e near 2.5) a slight doubt elsewhere is dropped."""
    y = np.array([[0, 1, 0], [0, 1, 0]])
    z = np.array([[[1e4, -1e4, 1e4]], [[-1.0, 1.0, -1.0]]])
    own = {"ce_weight": 0.0, "reduction": "none"}
    each = S.structural_similarity_loss(z, y, **own)
    shared = S.structural_similarity_loss(z, y, **own, threshold_scope="batch")
    assert each[1] > 0
    assert shared[1] == 0
    assert each[0] == shared[0] > 0


def test_rmi_of_flat_maps():
    """Two channels; nothing varies, so each has the logarithm of the root of the regularisation."""
    z, y = np.full((1, 2, 16, 16), 0.3), np.zeros((1, 16, 16), int)
    flat = np.log(5e-4**0.5 + 1e-8)
    assert S.rmi_loss(z, y, ce_weight=0.0, downsample=1) == pytest.approx(2 * flat)
    cost = np.logaddexp(0, -0.3) + np.logaddexp(0, 0.3)
    ours = S.rmi_loss(z, y, downsample=1, ce_weight=0.3)
    assert ours == pytest.approx(0.3 * 256 / 257 * cost + 0.7 * 2 * flat)


def test_rmi_of_single_voxels_by_hand():
    """Patches of one voxel: y varies by 1 in all, a flat p explains nothing of it, p = y all but the regularisation."""
    own = {"ce_weight": 0.0, "radius": 1, "downsample": 1}
    assert S.rmi_loss(*line([0, 1, 0, 1]), **own) == pytest.approx(np.log(1.0005) / 2, abs=1e-7)
    rest = 1 - 1 / 1.0005
    assert S.rmi_loss(*line([0, 1, 0, 1], [0, 1, 0, 1]), **own) == pytest.approx(np.log(rest + 5e-4) / 2, abs=1e-6)


@pytest.mark.parametrize("factor", [1, 2, 3, 4])
@pytest.mark.parametrize("shape", [(13,), (12, 11), (9, 8, 10)])
def test_downsampling_is_that_of_torch(factor, shape):
    x = np.random.default_rng(0).random(shape)
    t, d = torch.tensor(x)[None, None], len(shape)
    pools = [
        getattr(torch.nn.functional, f"{name}_pool{d}d")(t, factor, factor, factor // 2) for name in ("avg", "max")
    ]
    size, how = [n // factor for n in shape], ("linear", "bilinear", "trilinear")[d - 1]
    between = torch.nn.functional.interpolate(t, size, mode=how, align_corners=False)
    for mode, expected in zip(("average", "max", "interpolate"), [*pools, between], strict=True):
        np.testing.assert_allclose(S.downsampled(x, factor, mode), expected[0, 0], rtol=1e-12)


@pytest.mark.parametrize("loss", BY_CLASS + BY_VOXEL)
@pytest.mark.parametrize("mode", ["softmax", "sigmoid"])
def test_what_holds_for_all(loss, mode):
    z, y, w = scene(5, 6)
    common = {"mode": mode, "ignore_index": VOID, "class_weight": [0.5, 1.0, 3.0], **own(loss)}
    value = loss(z, y, w, **common)
    deep = loss(z[..., None, :], y[..., None, :], w[..., None, :], **common)
    turned = loss(np.swapaxes(z, 2, 3), np.swapaxes(y, 1, 2), np.swapaxes(w, 1, 2), **common)
    np.testing.assert_allclose([deep, turned], value, rtol=1e-9)
    one_hot = np.moveaxis(np.eye(3)[y], -1, 1)
    assert loss(z, one_hot, w, **common) == pytest.approx(value, rel=1e-12)
    if mode == "sigmoid":
        part = loss(z[:, 1:2], y, w, **{**common, "class_weight": None})
        factor = 1.0 if loss in BY_CLASS else 2.0
        ours = loss(z, y, w, **{**common, "classes": [1], "class_weight": [9, factor, 9]})
        assert ours == pytest.approx(factor * part, rel=1e-12)
    kept = loss(z[1:], y[1:], w[1:], **common)
    y[0], z[0] = VOID, np.nan
    assert loss(z, y, w, **common) == pytest.approx(kept, rel=1e-12)
    alone = loss(z, y, w, **common, reduction="none")
    assert alone[0] == 0
    np.testing.assert_allclose(alone[1:], [loss(*(x[n : n + 1] for x in (z, y, w)), **common) for n in (1, 2)])
    assert loss(z, y, w, **common, reduction="sum") == pytest.approx(alone.sum())
    if loss in BY_CLASS:
        pooled = loss(z, y, w, **common, pool="batch", reduction="none")
        assert pooled[0] == 0
        assert pooled[1] == pooled[2] == loss(z, y, w, **common, pool="batch")
        one = loss(z[1:2], y[1:2], w[1:2], **common, pool="batch")
        assert one == pytest.approx(alone[1], rel=1e-12)


@pytest.mark.parametrize("loss", BY_CLASS + BY_VOXEL)
@pytest.mark.parametrize("mode", ["softmax", "sigmoid"])
def test_extreme_logits(loss, mode):
    z, y, _ = scene(4, 5)
    assert np.isfinite(loss(1e4 * z, y, mode=mode, **own(loss)))
    y[y == 2] = 0
    z[:, 2] = -np.inf
    assert np.isfinite(loss(z, y, mode=mode, **own(loss)))
