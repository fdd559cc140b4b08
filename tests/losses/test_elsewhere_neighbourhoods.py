"""Faults of re-implementations of CMSSL and RMI, and what these two losses are known to do, on small examples."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import delineate.losses as L
from losses.cases import batch, margins, value_and_gradient
from losses.test_elsewhere import VOID, both_modes, close
from losses.test_elsewhere_geometry import blobs, one_channel

# ------------------------------------------------------------------------------------------------------------- CMSSL


def structure_by_hand(z, y, fault=None):
    """The second term of CMSSL of one image (H, W) in plain loops, right or with a fault of a re-implementation."""
    p, y, s = 1 / (1 + np.exp(-z)), y.astype(float), 0.01
    width = 2 * 1.5 if fault == "kernel exponent" else math.sqrt(2) * 1.5
    tap = np.exp(-((np.arange(-1, 2) / width) ** 2))
    w = np.outer(tap, tap) / np.outer(tap, tap).sum()

    def moments(x, i, j):
        around, weights = np.pad(x, 1, mode="reflect")[i : i + 3, j : j + 3], w
        if fault == "whole image":
            around, weights = x, np.full(x.shape, 1 / x.size)
        mean = (weights * around).sum()
        variance = (weights * (around - mean) ** 2).sum()
        return mean, math.sqrt(variance + s) if fault == "stabilizer in the root" else math.sqrt(variance) + s

    e = np.zeros(y.shape)
    for i, j in np.ndindex(y.shape):
        (mean_y, below_y), (mean_p, below_p) = moments(y, i, j), moments(p, i, j)
        if fault == "sides swapped":
            mean_y, mean_p, below_y, below_p = mean_p, mean_y, below_p, below_y
        if fault == "mean for deviation":
            below_p = mean_p + s
        e[i, j] = abs((y[i, j] - mean_y + s) / below_y - (p[i, j] - mean_p + s) / below_p)
    cost = np.where(y > 0, np.logaddexp(0, -z), np.logaddexp(0, z))
    kept = e <= 0.1 * e.max() if fault == "keeps the correlated" else e > 0.1 * e.max()
    divisor = y.size if fault == "mean over N" else kept.sum()
    if fault == "scalar cross entropy":
        return (e * kept).sum() / divisor * cost.mean()
    return (e * kept * cost).sum() / divisor


def structured(size=7, seed=0):
    """A square, and logits that know of it, with one part flat and another wrong: (H, W) each, in numpy."""
    g = np.random.default_rng(seed)
    y = np.zeros((size, size), int)
    y[2:5, 1:5] = 1
    z = 2.0 * (2 * y - 1) + 1.5 * g.normal(size=y.shape)
    z[5:] = -3.0
    return z, y


def in_torch(z, y):
    return torch.from_numpy(z)[None, None], torch.from_numpy(y)[None]


def ssl(**own):
    return L.StructuralSimilarityLoss(**{"ce_weight": 0.0} | own)


def by_voxel(loss, logits, labels):
    """e f BCE of each voxel of one image, divided by M: what is left if it alone has a weight."""
    voxels = labels[0].numel()
    alone = torch.eye(voxels, dtype=torch.float64).view(voxels, *labels.shape[1:])
    loss.reduction = "none"
    many = logits.expand(voxels, *logits.shape[1:]), labels.expand(voxels, *labels.shape[1:])
    return loss(*many, alone).view(labels.shape[1:])


FAULTS = [
    *("sides swapped", "stabilizer in the root", "whole image", "scalar cross entropy", "mean over N"),
    *("kernel exponent", "mean for deviation", "keeps the correlated"),
]


@pytest.mark.parametrize("fault", FAULTS)
def test_cmssl_faults_of_re_implementations(fault):
    """Five re-implementations of CMSSL, and what surveys say of it ("abandons pixels that do not correlate")."""
    z, y = structured()
    found = ssl()(*in_torch(z, y)).item()
    assert found == pytest.approx(structure_by_hand(z, y), rel=1e-9)
    assert abs(found / structure_by_hand(z, y, fault) - 1) > 1e-3


def test_cmssl_binary_cross_entropy_overflows():
    """A re-implementation takes log(sigmoid(z)), infinite for z = -800."""
    z, y = structured()
    logits, labels = in_torch(100 * z, y)
    value, gradient = value_and_gradient(L.StructuralSimilarityLoss(), logits, labels)
    assert value.isfinite()
    assert gradient.isfinite().all()
    close(ssl(ce_weight=1.0)(-800 + 0 * logits, labels).item(), 800 * 12 / 49)


@pytest.mark.parametrize("label", [0, 1])
def test_cmssl_sees_nothing_where_both_windows_are_flat(label):
    """Whatever is predicted: e = 0 there. Only the cross entropy, in the default, has a gradient."""
    labels = torch.full((1, 6, 6), label)
    logits = torch.full((1, 1, 6, 6), 3.0 - 6 * label, dtype=torch.float64)  # sure, and wrong
    for own in ({}, {"detach_weight": False}, {"threshold": 0.0}):
        value, gradient = value_and_gradient(ssl(**own), logits, labels)
        assert value == 0
        assert not gradient.any()
    value, gradient = value_and_gradient(L.StructuralSimilarityLoss(), logits, labels)
    close(value.item(), 0.5 * math.log1p(math.exp(3)))
    assert gradient.abs().min() > 1e-3


@pytest.mark.parametrize("kind", ["labels", "soft"])
def test_cmssl_with_ce_weight_1_is_cross_entropy_of_each_class(kind):
    logits, target = batch((6, 5), mode="sigmoid", kind=kind)
    weight = torch.rand(3, 6, 5, dtype=torch.float64)
    for own in ({}, {"class_weight": [1.0, 2.0, 3.0]}, {"classes": [0, 2]}, {"reduction": "none"}):
        expected = value_and_gradient(L.CrossEntropyLoss(mode="sigmoid", **own), logits, target, weight)
        close(value_and_gradient(ssl(ce_weight=1.0, **own), logits, target, weight), expected)
    dense = F.one_hot(target, 3).movedim(-1, 1).double() if kind == "labels" else target
    close(ssl(ce_weight=1.0)(logits, target), F.binary_cross_entropy_with_logits(logits, dense))


def test_cmssl_counts_voxels_above_the_threshold_only():
    """One edge is lost in a square of flat parts: windows that do not touch it have e = 0, and are not in M."""
    y = np.zeros((6, 12), int)
    y[:, 3:] = 1
    z = np.where(y, 4.0, -4.0)
    z[2:4, 3:5] = -4.0  # wrong here
    logits, labels = in_torch(z, y)
    costs = {cut: by_voxel(ssl(threshold=cut), logits, labels) for cut in (0.0, 0.1, 0.6)}
    assert not costs[0.0][:, 7:].any()
    kept = [(c > 0).sum().item() for c in costs.values()]
    assert 72 > kept[0] >= kept[1] > kept[2] > 0
    bce = F.binary_cross_entropy_with_logits(logits[0, 0], labels[0].double(), reduction="none")
    e = costs[0.0] * kept[0] / bce
    for cut, found in costs.items():
        chosen = e > cut * e.max()
        close(found, torch.where(chosen, e * bce, 0) / chosen.sum(), 1e-9)  # M is the number of those chosen
        close(ssl(threshold=cut)(logits, labels), (e * bce)[chosen].mean())
        _, gradient = value_and_gradient(ssl(threshold=cut), logits, labels)
        assert torch.equal(gradient[0, 0] != 0, chosen)


def test_cmssl_m_counts_pairs_of_all_classes_and_samples():
    """A class and a sample without an error add nothing to the sum and nothing to M."""
    logits, labels = in_torch(*structured())
    value = ssl()(logits, labels)
    flat = torch.full_like(logits, -9.0), torch.zeros_like(labels)
    close(ssl()(torch.cat([logits, flat[0]]), torch.cat([labels, flat[1]])), value)
    more = torch.cat([torch.full_like(logits, 3.0), logits], 1)  # a flat class 0 in an image of classes 1 and 2
    close(ssl(classes=[1])(more, labels), value)
    dense = torch.stack([torch.ones_like(labels), labels], 1).double()
    close(ssl()(more, dense), value)


def test_cmssl_threshold_scope():
    """A sample with small errors only, beside one with large ones: the largest of the batch cuts them off."""
    y = np.zeros((1, 12), int)
    y[:, 6:] = 1
    steep, wrong = np.where(y, 6.0, -6.0), np.where(y, -6.0, 6.0)
    steep[:, 8] -= 1.0
    steep[:, 3] += 0.01
    logits = torch.from_numpy(np.stack([steep, wrong]))[:, None]
    labels = torch.from_numpy(np.stack([y, y]))
    own, shared = (ssl(threshold=0.9, threshold_scope=s, reduction="none")(logits, labels) for s in ("sample", "batch"))
    assert own[0] > 0
    assert shared[0] == 0
    close(own[1], shared[1])


def test_cmssl_detach_weight_has_the_same_value_and_another_gradient():
    logits, labels = in_torch(*structured())
    (value, gradient), (same, other) = (
        value_and_gradient(L.StructuralSimilarityLoss(detach_weight=flag), logits, labels) for flag in (True, False)
    )
    close(value, same, 0, 0)
    assert (gradient - other).abs().max() > 1e-3
    step, move = 1e-6, torch.randn_like(logits)
    loss = L.StructuralSimilarityLoss(detach_weight=False)
    slope = (loss(logits + step * move, labels) - loss(logits - step * move, labels)) / (2 * step)
    close(slope, (other * move).sum(), 1e-5)


def test_cmssl_ignored_and_padding_differ():
    """Ignored voxels outside windows or background in them; a mirrored image or background around it."""
    logits, labels = in_torch(*structured())
    labels[0, 2, 2:4], labels[0, 0, 0] = VOID, VOID
    options = [{"ignored": i, "padding": p} for i in ("drop", "zero") for p in ("reflect", "zeros")]
    found = [ssl(ignore_index=VOID, **o)(logits, labels).item() for o in options]
    assert min(abs(a - b) for n, a in enumerate(found) for b in found[:n]) > 1e-4
    for o in options:
        ignored = labels[0] == VOID
        _, gradient = value_and_gradient(ssl(ignore_index=VOID, detach_weight=False, **o), logits, labels)
        assert not gradient[0, 0][ignored].any()
    full = torch.ones(1, 5, 5, dtype=torch.long)
    flat = torch.zeros(1, 1, 5, 5, dtype=torch.float64)
    assert ssl()(flat, full) == 0
    assert ssl(padding="zeros")(flat, full) > 0, "zeros invent edges at the border"


def test_cmssl_error_of_a_positive_linear_function_of_the_labels_is_small():
    """e asks for correlation, not for the right level: it is small for p = 0.3 + 0.3 y, larger for a constant p."""
    _, y = structured()
    largest = {}
    for name, p in {"linear": 0.3 + 0.3 * y, "constant": 0.4 + 0.0 * y, "inverted": 0.6 - 0.3 * y}.items():
        logits, labels = one_channel(p, y)
        found = by_voxel(ssl(threshold=0.0), logits, labels)
        cost = F.binary_cross_entropy_with_logits(logits[0, 0], labels[0].double(), reduction="none")
        largest[name] = (found * (found > 0).sum() / cost).max().item()
    assert largest["linear"] < 0.2 * largest["constant"]
    assert largest["constant"] < largest["inverted"]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("own", [{}, {"detach_weight": False}, {"mode": "softmax"}], ids=str)
def test_cmssl_in_half_precision(dtype, own):
    logits, labels = blobs(20, 24)
    logits, loss = logits.to(dtype), L.StructuralSimilarityLoss(**own)
    expected, exact = value_and_gradient(loss, logits.double(), labels)
    value, gradient = value_and_gradient(loss, logits, labels)
    assert value.dtype == torch.float32
    close(value.double(), expected, 1e-3)
    assert gradient.isfinite().all()
    assert (gradient.double() - exact).norm() < 0.01 * exact.norm()


def test_cmssl_window_that_does_not_fit():
    logits, labels = in_torch(*structured())
    for even in (2, 4):
        with pytest.raises(ValueError, match=f"`window_size` must be odd; got {even}"):
            ssl(window_size=even)
    ssl(window_size=13)(logits, labels)  # half of it is 6, and the image has 7
    with pytest.raises(ValueError, match="needs more than 7 voxels along each axis") as error:
        ssl(window_size=15)(logits, labels)
    assert "\n" not in str(error.value)
    ssl(window_size=15, padding="zeros")(logits, labels)


@pytest.mark.parametrize("dim", [0, 1, 2])
@pytest.mark.parametrize("own", [{}, {"padding": "zeros", "window_size": 5, "detach_weight": False}], ids=str)
def test_cmssl_of_a_volume_of_depth_1_is_that_of_the_image(dim, own):
    logits, labels = batch((6, 5))
    value, gradient = value_and_gradient(L.StructuralSimilarityLoss(**own), logits, labels)
    deep, by_deep = value_and_gradient(
        L.StructuralSimilarityLoss(**own), logits.unsqueeze(2 + dim), labels.unsqueeze(1 + dim)
    )
    close((deep, by_deep.squeeze(2 + dim)), (value, gradient))


# --------------------------------------------------------------------------------------------------------------- RMI

RMI_FLAT, RMI_BEST = 0.5 * math.log(5e-4), 0.5 * math.log(1e-3)


def rmi(**own):
    return L.RMILoss(**{"ce_weight": 0.0, "downsample": 1} | own)


def test_rmi_runs_anywhere_and_has_one_set_of_defaults():
    """ZJULearning RMI: a CUDA type, `torch.cholesky`, three sets of defaults. Ours by log det of numpy on the CPU."""
    assert L.RMILoss(radius=3, downsample=4, downsample_mode="average", ce_weight=0.5).expression() == "RMI"
    logits, labels = batch((6, 7), samples=1, channels=1)
    views = []
    for x in (labels[0].double(), logits[0, 0].sigmoid() + 1e-6):
        rows = np.array([x[i : i + 2, j : j + 2].flatten().tolist() for i in range(5) for j in range(6)])
        views.append(rows - rows.mean(0))
    y, p = views
    noise = 5e-4 * np.eye(4)
    m = y.T @ y - y.T @ p @ np.linalg.inv(p.T @ p + noise) @ p.T @ y
    information = np.linalg.slogdet(m + noise)[1] / 8
    assert rmi(mode="sigmoid", radius=2)(logits, labels).item() == pytest.approx(information, rel=1e-6)
    ce = F.binary_cross_entropy_with_logits(logits[0, 0], labels[0].double(), reduction="sum") / (42 + 1)
    found = L.RMILoss(radius=2, downsample=1)(logits, labels)
    assert found.item() == pytest.approx(0.5 * ce.item() + 0.5 * information, rel=1e-6)


def test_rmi_of_perfect_and_flat_predictions():
    """Of a perfect prediction S a / (S + a) + a is left of S, just below 2 a; of a flat target a, whatever p is."""
    logits, labels = batch((24, 24), samples=2, channels=3)
    perfect = rmi()(margins(labels, 3, 40.0, "sigmoid"), labels).item() / 3
    assert RMI_FLAT < perfect < RMI_BEST
    assert perfect == pytest.approx(RMI_BEST, abs=0.01)
    inverted = rmi()(margins(labels, 3, -40.0, "sigmoid"), labels).item() / 3
    assert inverted == pytest.approx(perfect, abs=1e-3), "blind to the sign"
    unknown = rmi()(logits, labels).item() / 3
    assert unknown > perfect + 1
    for z in (logits, 0 * logits):
        value, gradient = value_and_gradient(rmi(classes=[1, 2]), z, torch.zeros_like(labels))
        close(value.item(), 2 * RMI_FLAT, 1e-5)
        assert not gradient[:, 1:].abs().max() > 1e-9
    for reduction, times in (("sum", 2), ("mean", 1)):
        close(rmi(reduction=reduction)(logits, labels).item(), times * 3 * unknown)


def test_rmi_of_an_image_smaller_than_its_patch():
    for own, space in (({}, (16, 8)), ({"downsample": 1}, (9, 2)), ({"downsample": 2, "radius": 5}, (6, 20, 20))):
        logits, labels = batch(space)
        with pytest.raises(ValueError, match=r"RMILoss: after downsampling by .* got .* Use a smaller") as error:
            rmi(**{"downsample": 8} | own)(logits, labels)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@both_modes
def test_rmi_is_float64_inside(dtype, mode):
    """Half-precision logits have the value that the same numbers have in float64."""
    logits, labels = blobs(20, 24)
    logits = (logits / 4).to(dtype)
    for loss in (rmi(mode=mode), L.RMILoss(mode=mode)):
        expected, exact = value_and_gradient(loss, logits.double(), labels)
        value, gradient = value_and_gradient(loss, logits, labels)
        assert value.dtype == torch.float32
        close(value.double(), expected, 1e-6)
        assert (gradient.double() - exact).norm() < 0.01 * exact.norm()


def test_rmi_of_nan_is_nan_without_an_exception():
    logits, labels = batch((16, 16))
    logits[1, 2, 3, 4] = torch.nan
    assert L.RMILoss(reduction="none")(logits, labels).isnan().tolist() == [False, True, False]
    value, _ = value_and_gradient(L.RMILoss(), logits, labels)
    assert value.isnan()


@pytest.mark.parametrize(("mode", "start"), [("average", 1), ("max", 1), ("interpolate", 0)])
def test_rmi_downsampling(mode, start):
    """Of an image of equal blocks of 2 x 2 the small image is left: with pooling, from the second voxel on."""
    g = np.random.default_rng(0)
    y, p = g.integers(0, 2, (9, 8)), g.random((9, 8))
    y[0], y[:, 0], p[0], p[:, 0] = 0, 0, 0, 0
    large = [np.repeat(np.repeat(x, 2, 0), 2, 1)[start:, start:] for x in (y, p)]
    expected = rmi()(*one_channel(p, y)).item()
    found = rmi(downsample=2, downsample_mode=mode)(*one_channel(large[1], large[0])).item()
    assert found == pytest.approx(expected, abs=1e-4)


def test_rmi_downsample_modes_differ():
    logits, labels = batch((17, 18))
    found = [
        rmi(downsample=n, downsample_mode=m)(logits, labels).item()
        for n in (2, 3)
        for m in ("average", "max", "interpolate")
    ]
    assert min(abs(a - b) for n, a in enumerate(found) for b in found[:n]) > 1e-4
    assert len({rmi(downsample_mode=m)(logits, labels).item() for m in ("average", "max", "interpolate")}) == 1
