"""Faults of other libraries and of papers' code in losses of distances, skeletons and neighbourhoods.

The docstring of a test says what the other code does; releases as in `test_elsewhere.py`. Shown elsewhere in the tests:

    MONAI Boundary, HausdorffDT: other grids, no spacing       test_contract_geometry.py: c16
    MONAI, topolosses clDice wider than its iterations         test_contract_geometry.py: test_c17_bars_of_any_width
    MONAI Boundary, HausdorffDT: an empty target               test_elsewhere.py: test_smp_dice_gives_no_gradient_...
    MONAI SoftDiceclDice, fullgraph                            test_elsewhere_inputs.py, every loss
    LIVIAETS, SegLossOdyssey generalized Dice                  test_elsewhere_papers.py; there are no maps in it
"""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import ndimage

import delineate.losses as L
from delineate.losses.loss import arguments
from losses.cases import DEFAULTS, ball, batch, margins, value_and_gradient
from losses.test_elsewhere import both_modes, close
from losses.test_elsewhere_inputs import still

NEW = [case for case in DEFAULTS if case.spatial]
BY_DISTANCE = [case for case in NEW if "spacing" in arguments(case.cls)]

new = pytest.mark.parametrize("case", NEW, ids=repr)
by_distance = pytest.mark.parametrize("case", BY_DISTANCE, ids=repr)


def to_other_label(labels):
    """Of one image, by scipy: distance of each voxel to the nearest one of another label."""
    labels = labels.numpy()
    found = np.zeros(labels.shape)
    for name in np.unique(labels):
        found[labels == name] = ndimage.distance_transform_edt(labels == name)[labels == name]
    return torch.from_numpy(found)


def blobs(*space, samples=2, channels=3, seed=0):
    """Logits and labels of smooth regions; every class is there, and found, in every sample."""
    g = torch.Generator().manual_seed(seed)
    pool = (F.avg_pool2d, F.avg_pool3d)[len(space) - 2]
    z, other = (torch.randn(samples, channels, *space, generator=g, dtype=torch.float64) for _ in range(2))
    z, other = (pool(x, 5, 1, 2, count_include_pad=False) for x in (z, z + 0.7 * other))
    labels, logits = z.argmax(1), 60 * other
    for found in (labels[:, None], logits.softmax(1) > 0.5):
        on = found == torch.arange(channels).view(-1, *[1] * len(space)) if found.shape[1] == 1 else found
        assert on.flatten(2).any(2).all()
    return logits, labels


def one_channel(p, y):
    """Of probabilities and labels of one image: logits (1, 1, *S) and labels (1, *S)."""
    return torch.as_tensor(p, dtype=torch.float64).logit()[None, None], torch.as_tensor(y)[None]


# ------------------------------------------------------------------------------- cross entropy weighted by distance


@pytest.mark.parametrize("shape", [(2, 6, 7), (1, 4, 6, 5)])
def test_seglossodyssey_distance_penalized_ce_is_the_plain_mean(shape):
    """SegLossOdyssey DistPenalizedCE: the weighted loss is thrown away, and a batch of one volume is cut into slices.

    Surveys take the map of the prediction, too: ours is of the labels alone.
    """
    logits, labels = batch(shape[1:], samples=shape[0])
    expected = []
    for z, y in zip(logits, labels, strict=True):
        d, near = to_other_label(y), torch.empty(y.shape, dtype=torch.float64)
        for name in y.unique():
            own = d[y == name]
            near[y == name] = (own.max() - own) / (own.max() - own.min()) if own.max() > own.min() else 1.0
        expected.append((1 + near) * F.cross_entropy(z[None], y[None], reduction="none")[0])
    found = L.DistancePenalizedCELoss()(logits, labels)
    close(found, torch.stack(expected).mean(), 1e-6)
    assert found > 1.1 * F.cross_entropy(logits, labels)


@by_distance
def test_seglossodyssey_squeezes_a_batch_of_one_volume(case):
    """SegLossOdyssey, distance maps: of a batch of one volume they are those of its slices."""
    logits, labels = batch((3, 5, 4), samples=2)
    alone = [value_and_gradient(case.build(), logits[n : n + 1], labels[n : n + 1]) for n in (0, 1)]
    value, gradient = value_and_gradient(case.build(reduction="sum"), logits, labels)
    if case.region:
        close((value, gradient), (alone[0][0] + alone[1][0], torch.cat([g for _, g in alone])))
    close(case.build(reduction="none")(logits, labels), torch.stack([v for v, _ in alone]))
    if case.inner is None:  # a voxel as near to two components is in the cell of either
        turned = logits.movedim(2, 4), labels.movedim(1, 3)  # no axis is special
        close(case.build()(*turned), case.build()(logits, labels), 1e-6)


@pytest.mark.parametrize("label", [0, 1])
@both_modes
def test_seglossodyssey_maps_of_empty_and_full_targets_are_nan(label, mode):
    """SegLossOdyssey: the weights of an image of one label are 0 / 0. Of Hausdorff losses: test_c16b_..."""
    logits, _ = batch((5, 4), channels=2)
    labels = torch.full((3, 5, 4), label)
    plain = L.CrossEntropyLoss(mode=mode)(logits, labels)
    close(L.DistancePenalizedCELoss(mode=mode)(logits, labels), plain, 1e-6)
    on = F.one_hot(labels, 2).movedim(-1, 1).bool()
    wrong = (logits > 0) != on if mode == "sigmoid" else logits.argmax(1) != labels
    costs = (
        F.binary_cross_entropy_with_logits(logits, on.double(), reduction="none")
        if mode == "sigmoid"
        else F.cross_entropy(logits, labels, reduction="none")
    )
    close(L.ShapeAwareLoss(mode=mode)(logits, labels), plain + costs[wrong].mean(), 1e-6)


def test_surveys_shape_aware_map_is_a_learned_mask():
    """Surveys on the shape-aware loss: E is no mask that is learned, but a distance, of the labels alone."""
    logits, labels = batch((6, 7))
    far = torch.stack([to_other_label(y) for y in labels])
    costs, wrong = F.cross_entropy(logits, labels, reduction="none"), logits.argmax(1) != labels
    close(L.ShapeAwareLoss()(logits, labels), costs.mean() + (far * costs)[wrong].mean(), 1e-6)


# ---------------------------------------------------------------------------------------------- signed distance map


def signed(mask, h=1.0, sampling=None):
    mask = mask.numpy()
    outside, inside = (ndimage.distance_transform_edt(x, sampling=sampling) for x in (~mask, mask))
    return torch.from_numpy(np.where(mask, h - inside, outside))


def test_liviaets_one_hot2dist_takes_1_off_whatever_the_spacing():
    """LIVIAETS one_hot2dist (issue 45): the "-1" is not scaled. In millimetres ours is in proportion, as all are."""
    logits, labels = batch((6, 5))
    for name, power in (("Boundary", 1), ("HausdorffDT", 2), ("AverageHausdorff", 1), ("GeneralizedSurface", 0)):
        plain, in_mm = (L.parse(f"{name}({own})")(logits, labels) for own in ("", "spacing=[3.0, 3.0]"))
        close(in_mm, 3**power * plain, 1e-6)
    p, on = logits.softmax(1)[0, 1], labels[0] == 1
    phi = signed(on, 2.0, (2.0, 4.0))
    found = L.BoundaryLoss(classes=[1], spacing=[2.0, 4.0])(logits[:1], labels[:1])
    close(found, (phi * p).mean(), 1e-6)


@pytest.mark.parametrize("names", [[0, 2], [1, 3], [3, 0]])
def test_regionwise_boundary_loss_of_an_absent_class_has_the_map_before(names):
    """jmlipman RegionWiseLoss: an absent class has the map of the class before it, or a NameError."""
    logits, binary = batch((6, 5), channels=4)
    labels = torch.tensor(names)[binary % 2]
    p, expected = logits.softmax(1), []
    for n in range(3):
        for c in range(4):
            on = labels[n] == c
            expected.append(((signed(on) if on.any() else 1.0) * p[n, c]).mean())
    close(L.BoundaryLoss(absent="count")(logits, labels), torch.stack(expected).mean(), 1e-6)


@pytest.mark.parametrize("space", [(13, 12), (7, 9, 8)])
def test_monai_boundary_value(space):
    """MONAI BoundaryLoss has the official map: the same value and gradient, where no class is absent."""
    M = pytest.importorskip("monai.losses")
    logits, labels = blobs(*space)
    theirs = M.BoundaryLoss(softmax=True, to_onehot_y=True)
    expected = value_and_gradient(lambda z, y, _: theirs(z, y[:, None]), logits, labels)
    close(value_and_gradient(L.BoundaryLoss(), logits, labels), expected, 1e-5, 1e-8)


@pytest.mark.parametrize("name", ["BoundaryLoss", "HausdorffDTLoss"])
def test_monai_boundary_and_hausdorff_dt_of_an_empty_target_as_installed(name):
    """MONAI: the map of an empty target is 0, in HausdorffDT also that of a prediction below 0.5: all is free."""
    M = pytest.importorskip("monai.losses")
    logits, empty = torch.full((1, 1, 8, 8), -0.5), torch.zeros(1, 1, 8, 8)
    value, gradient = value_and_gradient(getattr(L, name)(mode="sigmoid"), logits, empty[:, 0].long())
    assert value.item() == pytest.approx(torch.tensor(-0.5).sigmoid().item())
    assert (gradient > 1e-3).all()
    theirs = getattr(M, name)(sigmoid=True, include_background=True)
    value, gradient = value_and_gradient(lambda z, y, _: theirs(z, y), logits, empty)
    still(value == 0 and not gradient.any(), "monai")


# --------------------------------------------------------------------------------------------------------- Hausdorff


def test_hausdorff_dt_maps_are_of_the_inside_only():
    """SegLossOdyssey HDLoss, LIVIAETS one_hot2hd_dist, SegWithDistMap: no map outside, so far false positives cost 0.

    And the factor is the square of the error, not the error.
    """
    loss = L.HausdorffDTLoss(mode="sigmoid")
    y = [1, 0, 0, 0, 0, 0, 0, 0]
    for at in (2, 5, 7):
        p = torch.tensor(y, dtype=torch.float64)
        p[at] = 1
        close(loss(*one_channel(p, y)).item(), (at**2 + 1) / 8, 1e-6)
        p[at] = 0.25
        close(loss(*one_channel(p, y)).item(), 2 * at**2 / 16 / 8, 1e-6)


@pytest.mark.parametrize("name", ["HausdorffDTLoss", "HausdorffErosionLoss", "HausdorffConvLoss"])
@pytest.mark.parametrize("space", [(7, 8), (5, 6, 7)])
def test_seglossodyssey_hausdorff_has_no_gradient(name, space):
    """SegLossOdyssey: DT raises for tensors with a graph, ER has none: ours go where the loss falls, from any graph."""
    labels = ball(space, 2)
    z = margins(labels, 2, 3.0, "softmax").flip(1) + 0.3 * torch.randn(1, 2, *space, dtype=torch.float64)
    scale = torch.ones((), dtype=torch.float64, requires_grad=True)
    loss = getattr(L, name)(classes=[1], **({"radii": [1, 2]} if name == "HausdorffConvLoss" else {}))
    value = loss(z * scale, labels)
    value.backward()
    step = 1e-6
    slope = (loss(z * (1 + step), labels) - loss(z * (1 - step), labels)) / (2 * step)
    close(scale.grad, slope, 1e-4, 1e-8)
    assert slope > 1e-2, "sure errors cost more"


def test_seglossodyssey_erosion_in_3d_reaches_into_channels():
    """SegLossOdyssey, PatRyg99 ER: a kernel (3, 1, 3, 3) takes channels for planes. A cube of 3, missed, by hand:

    1, 6/7, 5/7, 4/7 of the cross lie in it, of the middle, 6 faces, 12 edges and 8 corners: less 1/2, sum 81/14.
    """
    labels = torch.zeros(1, 7, 7, 7, dtype=torch.long)
    labels[:, 2:5, 2:5, 2:5] = 1
    logits = torch.full((1, 1, 7, 7, 7), -50.0, dtype=torch.float64)
    loss = L.HausdorffErosionLoss(mode="sigmoid", erosions=1, rescale=False)
    close(loss(logits, labels).item(), 81 / 14 / 343)
    close(L.HausdorffErosionLoss(mode="sigmoid", erosions=1)(logits, labels).item(), 81 / 7 / 343)
    logits, labels = blobs(6, 7, 8)
    value = L.HausdorffErosionLoss()(logits, labels)
    close(torch.stack([L.HausdorffErosionLoss(classes=[c])(logits, labels) for c in range(3)]).mean(), value)
    close(L.HausdorffErosionLoss()(logits.movedim(2, 4), labels.movedim(1, 3)), value)


@pytest.mark.parametrize("name", ["HausdorffDTLoss", "HausdorffErosionLoss"])
@pytest.mark.parametrize("p", [0.1, 0.4])
def test_monai_hausdorff_dt_and_kornia_are_0_below_one_half(name, p):
    """MONAI HausdorffDT, kornia ER (torchgeo#880): 0 without gradient if neither mask passes 0.5, and never trained."""
    logits, empty = one_channel(torch.full((8, 8), p), torch.zeros(8, 8, dtype=torch.long))
    value, gradient = value_and_gradient(getattr(L, name)(mode="sigmoid"), logits, empty)
    close(value.item(), p, 1e-6)
    close(gradient, torch.full_like(gradient, p * (1 - p) / 64), 1e-6)


def test_hausdorff_losses_train_from_below_one_half():
    """As above, with an object there: DT trains from p = 0.4, ER where errors are thick and above 0.7, as it says."""
    labels = ball((12, 12), 3)
    for name, start in (("HausdorffDTLoss", 0.4), ("HausdorffErosionLoss", 0.2)):
        logits = torch.full((1, 1, 12, 12), start).logit().requires_grad_()
        loss, optimizer = getattr(L, name)(mode="sigmoid"), torch.optim.Adam([logits], lr=0.2)
        first = loss(logits, labels).item()
        for _ in range(30):
            optimizer.zero_grad()
            value = loss(logits, labels)
            value.backward()
            optimizer.step()
        assert value.item() < 0.2 * first
    value, gradient = value_and_gradient(L.HausdorffErosionLoss(mode="sigmoid"), logits * 0 - 0.4, labels)
    assert value == 0
    assert not gradient.any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", ["HausdorffErosionLoss", "HausdorffDTLoss", "HausdorffConvLoss"])
def test_kornia_hausdorff_gradient_in_half_precision(name, dtype):
    """kornia HausdorffER: in fp16 the gradient is NaN, in bf16 half of it is wrong."""
    logits, labels = blobs(24, 20)
    logits, loss = logits.to(dtype), getattr(L, name)()
    expected, exact = value_and_gradient(loss, logits.double(), labels)
    value, gradient = value_and_gradient(loss, logits, labels)
    close(value.double(), expected, 1e-3)
    assert (gradient.double() - exact).norm() < 0.01 * exact.norm()
    assert exact.any()


HAUSDORFF = [
    *(L.HausdorffDTLoss, L.HausdorffErosionLoss, L.HausdorffConvLoss),
    *(L.WeightedHausdorffLoss, L.AverageHausdorffLoss),
]


@pytest.mark.parametrize("cls", HAUSDORFF)
@both_modes
def test_mmsegmentation_hausdorff_is_of_the_raw_label_map(cls, mode):
    """mmsegmentation HuasdorffDisstance: distances between label maps, whatever the classes are: ours by class."""
    logits, labels = batch((6, 7), channels=4, mode=mode)
    loss = cls(mode=mode, classes=[1])
    found = value_and_gradient(loss, logits, labels)
    for other in (torch.where(labels == 3, 0, labels), torch.where(labels == 2, 3, labels)):
        close(value_and_gradient(loss, logits, other), found)
    each = torch.stack([cls(mode=mode, classes=[c])(logits, labels) for c in range(4)])
    close(cls(mode=mode)(logits, labels), each.mean())


def test_surveys_modified_hausdorff_leaves_the_farthest_points_out():
    """Surveys: the modified Hausdorff distance is no HD95, but the larger of two means over all points."""
    y = torch.zeros(1, 40, dtype=torch.long)
    y[0, :4] = 1
    p = y.double().clone()
    p[0, 39] = 1  # 36 away from the nearest voxel of the target
    logits = (2 * p - 1)[:, None] * 400
    for combine, expected in (("max", 36 / 5), ("mean", 36 / 10), ("sum", 36 / 5)):
        close(L.AverageHausdorffLoss(mode="sigmoid", combine=combine)(logits, y).item(), expected, 1e-6)
    missed = y.double()
    missed[0, 1:4] = 0  # found at 0 only: 0 + 1 + 2 + 3 away
    logits = (2 * missed - 1)[:, None] * 400
    close(L.AverageHausdorffLoss(mode="sigmoid", combine="max")(logits, y).item(), 6 / 4, 1e-6)


def test_javiribera_empty_target_test_is_inverted():
    """javiribera: the branch for images without objects is never taken; ours costs the false-positive rate there."""
    logits, _ = batch((6, 7), channels=1)
    empty = torch.zeros(3, 6, 7, dtype=torch.long)
    close(L.WeightedHausdorffLoss(mode="sigmoid")(logits, empty), logits.sigmoid().mean(), 1e-6)


@pytest.mark.parametrize("space", [(13, 12), (7, 9, 8)])
@pytest.mark.parametrize("alpha", [1.0, 2.0])
def test_monai_hausdorff_dt_value(space, alpha):
    """MONAI HausdorffDT has both sides: the same value and gradient, where no class is absent or unseen."""
    M = pytest.importorskip("monai.losses")
    logits, labels = blobs(*space)
    theirs = M.HausdorffDTLoss(alpha=alpha, include_background=True, softmax=True, to_onehot_y=True)
    expected = value_and_gradient(lambda z, y, _: theirs(z, y[:, None]), logits, labels)
    close(value_and_gradient(L.HausdorffDTLoss(alpha=alpha), logits, labels), expected, 1e-5, 1e-8)


@pytest.mark.parametrize(("name", "space"), [("HausdorffERLoss", (13, 12)), ("HausdorffERLoss3D", (7, 9, 8))])
@pytest.mark.parametrize("own", [{}, {"alpha": 1.0, "erosions": 3}], ids=str)
def test_kornia_hausdorff_er_value(name, space, own):
    """kornia HausdorffERLoss scales as ours does by default: the same value and gradient."""
    K = pytest.importorskip("kornia.losses")
    logits, labels = blobs(*space)
    theirs = getattr(K, name)(alpha=own.get("alpha", 2.0), k=own.get("erosions", 10))
    expected = value_and_gradient(lambda z, y, _: theirs(z.softmax(1), y[:, None]), logits, labels)
    assert expected[0] > 1e-2
    close(value_and_gradient(L.HausdorffErosionLoss(**own), logits, labels), expected, 1e-5, 1e-8)


# ------------------------------------------------------------------------------------------ contours and skeletons


@new
@pytest.mark.parametrize("label", [0, 1])
def test_active_boundary_loss_returns_none_without_a_boundary(case, label):
    """wangchi95 active-boundary-loss returns None if there is no boundary, and only knows .cuda()."""
    for mode in ("softmax", "sigmoid"):
        logits, _ = batch((6, 6), channels=2)
        value, gradient = value_and_gradient(case.build(mode=mode), logits, torch.full((3, 6, 6), label))
        assert value.isfinite()
        assert gradient.isfinite().all()
        assert gradient.any() == (case.cls is not L.SkeletonRecallLoss or label == 1 or mode == "sigmoid")


def test_boundary_dou_alpha_falls_to_minus_1():
    """sunfan-bvb BoundaryDoU: alpha -1 for one voxel, C - 1 classes divided by C, one mask of all classes merged."""
    labels = torch.zeros(1, 20, 20, dtype=torch.long)
    labels[:, 1:17, 1:17], labels[:, 18, 18], labels[:, 5:8, 5:8] = 1, 2, 3
    logits = margins(labels, 4, 2.0, "softmax") + 0.5 * torch.randn(1, 4, 20, 20, dtype=torch.float64)
    p, expected = logits.softmax(1)[0], []
    for c in range(4):
        on = labels[0] == c
        contour = on.sum() - ndimage.binary_erosion(on.numpy()).sum()
        a = (1 - 2 * contour / on.sum()).clamp(0, 0.8)
        product, squares = (p[c] * on).sum(), p[c].square().sum() + on.sum()
        expected.append((squares - 2 * product) / (squares - (1 + a) * product))
        if c == 2:
            close(a.item(), 0.0)
    close(L.BoundaryDoULoss()(logits, labels), torch.stack(expected).mean(), 1e-6)
    wrong = margins((labels + 1) % 4, 4, 50.0, "softmax")
    for classes in (None, [1, 2, 3], [2]):
        close(L.BoundaryDoULoss(classes=classes)(wrong, labels).item(), 1.0)


@pytest.mark.filterwarnings("ignore:SoftClDiceLoss")
def test_cldice_iterations_are_ignored():
    """jocpae clDice: `iter_` is ignored, 10 is hard-coded; and its arguments are (y_true, y_pred)."""
    labels = ball((30, 30), 9)
    logits = margins(labels, 2, 1.0, "softmax") + 2 * torch.randn(1, 2, 30, 30, dtype=torch.float64)
    found = [L.SoftClDiceLoss(iterations=n, classes=[1])(logits, labels).item() for n in (0, 1, 3)]
    assert max(found) > min(found) + 1e-3
    assert len(set(found)) == 3
    with pytest.raises(ValueError, match="logits"):
        L.SoftClDiceLoss()(labels, logits)


@pytest.mark.parametrize("cls", [L.SoftClDiceLoss, L.SkeletonRecallLoss])
def test_monai_soft_cldice_drops_channel_0(cls):
    """MONAI SoftclDice before #8703: channel 0 is left out, so that one channel gives 0 without gradient (#8239)."""
    labels = torch.zeros(1, 9, 20, dtype=torch.long)
    labels[:, 3:6] = 1
    logits = torch.linspace(-3, 1, 20, dtype=torch.float64).expand(1, 1, 9, 20)
    value, gradient = value_and_gradient(cls(mode="sigmoid"), logits, labels)
    assert value > 0.2
    assert gradient[0, 0, 4].sum() < -1e-3
    both = torch.cat([logits, -logits], 1)
    each = [cls(mode="sigmoid", classes=[c])(both, labels) for c in (0, 1)]
    close(cls(mode="sigmoid")(both, labels), torch.stack(each).mean())
    if cls is L.SoftClDiceLoss:
        each = [cls(classes=[c])(both, labels) for c in (0, 1)]
        close(cls()(both, labels), torch.stack(each).mean())


def test_monai_soft_cldice_value():
    """MONAI SoftclDice of one class no wider than its iterations reach: the same value and gradient in 2D and 3D."""
    M = pytest.importorskip("monai.losses")
    theirs = M.SoftclDiceLoss(iter_=3, smooth=1e-12, sigmoid=True)
    for space in ((16, 20), (8, 9, 10)):
        labels = torch.zeros(2, *space, dtype=torch.long)
        labels[:, 4:7], labels[0, :, 3] = 1, 1
        logits = margins(labels, 1, 2.0, "sigmoid") + torch.randn(2, 1, *space, dtype=torch.float64)
        expected = value_and_gradient(lambda z, y, _: theirs(z, y[:, None].double()), logits, labels)
        ours = L.SoftClDiceLoss(mode="sigmoid", iterations=3)
        close(value_and_gradient(ours, logits, labels), expected, 1e-5, 1e-8)


def test_monai_cldice_wider_than_its_iterations_as_installed():
    """MONAI clDice: an object wider than twice `iter_` has no skeleton, and a missed one costs as a perfect one."""
    M = pytest.importorskip("monai.losses")
    labels = torch.zeros(1, 30, 30, dtype=torch.long)
    labels[:, 5:25, 5:25] = 1
    missed, perfect = torch.full((1, 1, 30, 30), -20.0), margins(labels, 1, 20.0, "sigmoid").float()
    ours = L.SoftClDiceLoss(mode="sigmoid")
    assert ours(missed, labels) > ours(perfect, labels) + 0.3
    theirs = M.SoftclDiceLoss(iter_=3, sigmoid=True)
    still(abs(theirs(missed, labels[:, None].float()) - theirs(perfect, labels[:, None].float())) < 1e-3, "monai")
