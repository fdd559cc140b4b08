import math
import warnings

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from delineate.metrics.surface import (
    SurfaceDistances,
    assd,
    band_width,
    boundary_iou,
    hausdorff,
    masd,
    nsd,
    surface,
    surface_distances,
)

GRIDS = [
    ((13,), (0.7,)),
    ((12, 14), (1.0, 1.0)),
    ((11, 9), (3.0, 0.8)),
    ((10, 9, 8), (1.0, 1.0, 1.0)),
    ((7, 9, 10), (3.0, 1.0, 0.7)),
]
"""Shape and spacing."""


def blobs(shape, seed):
    """Two masks of smooth random blobs, at the border too, that overlap in part."""
    rng = np.random.default_rng(seed)
    fields = [gaussian_filter(rng.random(shape), 1.2) for _ in range(2)]
    prediction, truth = (field > np.median(field) for field in fields)
    return prediction, truth


def surface_voxels(mask):
    """Places of the voxels with a face neighbour outside, one at a time."""
    found = []
    for at in zip(*np.nonzero(mask), strict=True):
        around = [(*at[:k], at[k] + step, *at[k + 1 :]) for k in range(mask.ndim) for step in (-1, 1)]
        inside = [all(0 <= i < n for i, n in zip(other, mask.shape, strict=True)) and mask[other] for other in around]
        if not all(inside):
            found.append(at)
    return np.array(found, float)


def directed(of, to, spacing):
    """Distance of each surface voxel to the nearest of the other mask, by all pairs."""
    a, b = (surface_voxels(mask) * spacing for mask in (of, to))
    return np.sqrt(((a[:, None] - b[None]) ** 2).sum(2)).min(1)


@pytest.mark.parametrize(("shape", "spacing"), GRIDS)
def test_distances_equal_all_pairs(shape, spacing):
    prediction, truth = blobs(shape, 3)
    found = surface_distances(prediction, truth, spacing)
    np.testing.assert_allclose(found.to_truth, directed(prediction, truth, spacing), rtol=1e-6)
    np.testing.assert_allclose(found.to_prediction, directed(truth, prediction, spacing), rtol=1e-6)
    assert found.diagonal == pytest.approx(math.sqrt(sum((n * s) ** 2 for n, s in zip(shape, spacing, strict=True))))


def test_surface_at_the_border_of_the_image():
    mask = np.zeros((5, 6), bool)
    mask[:, :4] = True
    assert surface(mask).sum() == 14  # 20 less the inner 3 x 2
    assert np.argwhere(surface(mask)).tolist() == surface_voxels(mask).tolist()


def test_one_voxel_each_with_spacing():
    prediction, truth = np.zeros((2, 4, 5, 6), bool)
    prediction[0, 0, 0], truth[1, 2, 2] = True, True
    found = surface_distances(prediction, truth, (3.0, 0.5, 2.0))
    expected = math.sqrt(9 + 1 + 16)
    for value in (hausdorff(found), hausdorff(found, 100), assd(found), masd(found)):
        assert value == pytest.approx(expected, rel=1e-6)
    assert nsd(found, 5.0) == 0
    assert nsd(found, 5.2) == 1


DISTANCES = SurfaceDistances(np.array([0.0, 0.0, 0.0, 0.0, 8.0]), np.array([1.0, 3.0]), 100.0)


def test_statistics_by_hand():
    assert hausdorff(DISTANCES, 100) == 8
    assert hausdorff(DISTANCES, 50) == 2  # medians 0 and 2
    assert hausdorff(DISTANCES, 50, "pooled") == 0  # median of 0 0 0 0 1 3 8
    assert hausdorff(DISTANCES, 75, "pooled") == 2  # halfway from 1 to 3
    assert hausdorff(DISTANCES) == pytest.approx(0.2 * 0 + 0.8 * 8)  # at 3.8 of 0..4
    assert assd(DISTANCES) == pytest.approx(12 / 7)
    assert masd(DISTANCES) == pytest.approx((8 / 5 + 2) / 2)
    assert nsd(DISTANCES, 1.0) == pytest.approx(5 / 7)
    assert nsd(DISTANCES, 0.99) == pytest.approx(4 / 7)


def test_a_distance_equal_to_the_tolerance_is_within():
    prediction, truth = np.zeros((2, 9), bool)
    prediction[1], truth[4] = True, True
    found = surface_distances(prediction, truth, [0.1])
    assert nsd(found, 0.3) == 1
    assert nsd(found, 0.2999) == 0


def test_empty_masks_are_penalised():
    nothing, truth = np.zeros((2, 6, 8), bool)
    truth[2:4, 3:5] = True
    for pair in ((nothing, truth), (truth, nothing)):
        found = surface_distances(*pair, (1.0, 1.0))
        for value in (hausdorff(found), hausdorff(found, 100), assd(found), masd(found)):
            assert value == 10
        for value in (hausdorff(found, empty="inf"), assd(found, "inf"), masd(found, "inf")):
            assert value == math.inf
        assert nsd(found, 50.0) == 0
        assert boundary_iou(*pair, 1) == 0
    found = surface_distances(nothing, nothing, (1.0, 1.0))
    for value in (hausdorff(found, empty="inf"), assd(found), masd(found)):
        assert value == 0
    assert nsd(found, 0.0) == 1
    assert boundary_iou(nothing, nothing, 1) == 1


def band_by_hand(mask, width):
    """Voxels within `width` king's moves of a voxel outside."""
    padded = np.pad(mask, width)
    found = np.zeros_like(mask)
    for at in zip(*np.nonzero(mask), strict=True):
        found[at] = not padded[tuple(slice(i, i + 2 * width + 1) for i in at)].all()
    return found


@pytest.mark.parametrize("width", [1, 2, 3])
def test_boundary_iou_by_hand(width):
    prediction, truth = np.zeros((2, 16, 17), bool)
    prediction[:9, 2:12], truth[1:12, 4:17] = True, True
    bands = [band_by_hand(mask, width) for mask in (prediction, truth)]
    expected = (bands[0] & bands[1]).sum() / (bands[0] | bands[1]).sum()
    assert 0 < expected < (prediction & truth).sum() / (prediction | truth).sum()
    assert boundary_iou(prediction, truth, width) == pytest.approx(expected)
    assert boundary_iou(prediction, truth, 99) == pytest.approx((prediction & truth).sum() / (prediction | truth).sum())


def test_band_width():
    assert [band_width((600, 800)), band_width((600, 800), 0.1), band_width((4, 4))] == [20, 100, 1]


@pytest.mark.parametrize(("shape", "spacing"), [grid for grid in GRIDS if len(grid[0]) > 1])
def test_equals_monai(shape, spacing):
    pytest.importorskip("monai")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from monai.metrics import compute_average_surface_distance, compute_hausdorff_distance, compute_surface_dice

        for seed in range(3):
            prediction, truth = blobs(shape, seed)
            found = surface_distances(prediction, truth, spacing)
            one_hot = [torch.from_numpy(mask)[None, None].float() for mask in (prediction, truth)]
            options = {"include_background": True, "spacing": spacing}
            for percentile in (95, 50):
                expected = compute_hausdorff_distance(*one_hot, percentile=percentile, **options).item()
                assert hausdorff(found, percentile) == pytest.approx(expected, abs=4e-6)
            assert hausdorff(found, 100) == pytest.approx(
                compute_hausdorff_distance(*one_hot, **options).item(), abs=4e-6
            )
            expected = compute_surface_dice(*one_hot, [1.1], **options).item()
            assert nsd(found, 1.1) == pytest.approx(expected, abs=1e-7)
            expected = compute_average_surface_distance(*one_hot, symmetric=True, **options).item()
            assert assd(found) == pytest.approx(expected, abs=2e-7)


def test_equals_panoptica_pooled():
    pytest.importorskip("panoptica")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from panoptica.metrics import Metric

        for shape, spacing in GRIDS[1:]:
            prediction, truth = blobs(shape, 5)
            found = surface_distances(prediction, truth, spacing)
            hd, hd95, mean = (
                metric(truth, prediction, voxelspacing=spacing) for metric in (Metric.HD, Metric.HD95, Metric.ASSD)
            )
            assert hausdorff(found, 100, "pooled") == hausdorff(found, 100) == pytest.approx(hd, rel=1e-6)
            assert hausdorff(found, 95, "pooled") == pytest.approx(hd95, rel=1e-6)
            assert masd(found) == pytest.approx(mean, rel=1e-6)  # the mean of both means, under the name ASSD there
            assert assd(found) != pytest.approx(mean, rel=1e-6)


def test_surface_distance_package_where_definitions_agree():
    """Its surface elements lie between voxels: a moved box has the same distances, blobs have others."""
    pytest.importorskip("surface_distance")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from surface_distance import metrics

        truth, spacing = np.zeros((12, 13, 9), bool), (2.0, 1.0, 0.5)
        truth[2:6, 3:8, 3:6] = True
        for step, axis in ((1, 0), (3, 1), (2, 2)):
            moved = np.roll(truth, step, axis)
            found, theirs = (
                surface_distances(moved, truth, spacing),
                metrics.compute_surface_distances(truth, moved, spacing),
            )
            expected = metrics.compute_robust_hausdorff(theirs, 100)
            assert hausdorff(found, 100) == expected == step * spacing[axis]
            assert nsd(found, expected) == metrics.compute_surface_dice_at_tolerance(theirs, expected) == 1
        prediction, truth = blobs((10, 9, 8), 0)
        theirs = metrics.compute_surface_distances(truth, prediction, (1, 1, 1))
        by_area = metrics.compute_surface_dice_at_tolerance(theirs, 1.0)
        assert nsd(surface_distances(prediction, truth, (1, 1, 1)), 1.0) == pytest.approx(by_area, abs=0.15)
        assert nsd(surface_distances(prediction, truth, (1, 1, 1)), 1.0) != pytest.approx(by_area, abs=1e-3)


MASK = np.zeros((4, 5), bool)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: surface_distances(MASK, MASK[1:], (1, 1)), r"prediction: expected the shape of truth, \(3, 5\)"),
        (lambda: surface_distances(MASK, MASK, (1, 1, 1)), "spacing: expected 2 positive"),
        (lambda: surface_distances(MASK, MASK, (1, 0)), "spacing: expected 2 positive"),
        (lambda: surface_distances(MASK, MASK, (1, math.nan)), "spacing: expected 2 positive"),
        (lambda: surface_distances(MASK.astype(int), MASK, (1, 1)), "prediction: expected a bool mask; got int"),
        (lambda: surface_distances(MASK[None, None], MASK[None, None], (1,) * 4), "truth: expected one to three dims"),
        (lambda: hausdorff(DISTANCES, 101), "percentile: expected 0 to 100; got 101"),
        (lambda: hausdorff(DISTANCES, 95, "mean"), "definition: expected one of max, pooled; got 'mean'"),
        (lambda: assd(DISTANCES, "nan"), "empty: expected one of diagonal, inf; got 'nan'"),
        (lambda: nsd(DISTANCES, -1), "tolerance: expected a distance in mm"),
        (lambda: boundary_iou(MASK, MASK, 0), "width: expected at least 1 pixel; got 0"),
    ],
)
def test_bad_arguments(call, words):
    with pytest.raises(ValueError, match=words) as caught:
        call()
    assert "\n" not in str(caught.value)
