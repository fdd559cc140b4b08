"""Losses by instance: equal to a literal loop over blobs, whatever the number of blobs, and what only they promise."""

import pytest
import torch
from scipy import ndimage

import delineate.losses as L
from delineate.target import Geometry, Target
from losses.cases import ball, batch, value_and_gradient

VOID = 255
RATIOS = {
    "Dice": lambda p, y: 1 - 2 * (p * y).sum() / (p.sum() + y.sum()),
    "Dice(squared=True)": lambda p, y: 1 - 2 * (p * y).sum() / (p.square().sum() + y.sum()),
    "Jaccard": lambda p, y: 1 - (p * y).sum() / (p.sum() + y.sum() - (p * y).sum()),
    "Tversky": lambda p, y: 1 - (p * y).sum() / (0.7 * y.sum() + 0.3 * p.sum()),
    "FocalTversky": lambda p, y: (1 - (p * y).sum() / (0.7 * y.sum() + 0.3 * p.sum())) ** 0.75,
}
COSTS = {
    "CE": lambda log_p: -log_p,
    "Focal": lambda log_p: (1 - log_p.exp()) ** 2 * -log_p,
    "TopK(k=0.3)": lambda log_p: -log_p,
}
SPACES = {"2d": (9, 8), "3d": (6, 5, 6)}


def blobs_of(labels, label):
    """Masks of the components of a label, neighbours by corners included."""
    mask = (labels == label).numpy()
    ids, count = ndimage.label(mask, ndimage.generate_binary_structure(mask.ndim, mask.ndim))
    return [torch.from_numpy(ids == k) for k in range(1, count + 1)]


def literal(name, fp_scope, logits, labels, sigmoid):
    """Blob loss as it is written down: the inner loss of each blob with the others masked out, differentiated."""
    samples = []
    for z, y in zip(logits, labels, strict=True):
        by_class = []
        channels = {0: 1} if len(z) == 1 else {c: c for c in range(0 if sigmoid else 1, len(z))}
        for channel, label in channels.items():
            blobs = blobs_of(y, label)
            if blobs:
                terms = [one_blob(name, fp_scope, z, y, channel, label, blob, len(blobs), sigmoid) for blob in blobs]
                by_class.append(torch.stack(terms).mean())
        if by_class:
            samples.append(torch.stack(by_class).mean())
    return torch.stack(samples).mean()


def one_blob(name, fp_scope, z, y, channel, label, blob, count, sigmoid):
    background, share = (y != label).double(), 1 / count if fp_scope == "split" else 1.0
    on = blob.double()
    if name in RATIOS:
        p = (z.sigmoid() if sigmoid else z.softmax(0))[channel]
        if name == "Dice(squared=True)":
            share = share**0.5
        return RATIOS[name](p * (on + share * background), on)
    own = torch.where(blob, z[channel], -z[channel]).sigmoid().log() if sigmoid else None
    log_p = own if own is not None else z.log_softmax(0).gather(0, y[None])[0]
    costs = COSTS[name](log_p) * (on + share * background)
    if name.startswith("TopK"):
        keep = max(1, int(0.3 * costs.numel()))
        return costs.flatten().topk(keep).values.mean()
    return costs.mean()


@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
@pytest.mark.parametrize("mode", ["softmax", "binary", "multilabel"])
@pytest.mark.parametrize("fp_scope", ["shared", "split"])
@pytest.mark.parametrize("name", [*RATIOS, *COSTS])
def test_equals_a_literal_loop_over_blobs(name, fp_scope, mode, space):
    """Value and gradient, to 1e-10."""
    channels = 1 if mode == "binary" else 3
    g = torch.Generator().manual_seed(len(name))
    logits = torch.randn(3, channels, *space, generator=g, dtype=torch.float64)
    labels = torch.randint(0, max(channels, 2), (3, *space), generator=g)
    labels = torch.where(torch.rand(3, *space, generator=g) < 0.6, 0, labels)
    if mode != "multilabel":
        labels[2] = 0  # leaves the mean; in sigmoid mode label 0 of several channels is a class
    sigmoid = mode != "softmax"
    inner = L.parse(name, mode="sigmoid" if sigmoid else "softmax")
    ours = value_and_gradient(L.BlobLoss(inner, fp_scope=fp_scope), logits, labels)
    leaf = logits.clone().requires_grad_()
    expected = literal(name, fp_scope, leaf, labels, sigmoid)
    torch.testing.assert_close(ours[0], expected.detach(), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(ours[1], torch.autograd.grad(expected, leaf)[0], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("inner", ["Dice", "Jaccard", "FocalTversky", "CE", "Focal", "TopK(k=0.2)"])
@pytest.mark.parametrize("mode", ["softmax", "sigmoid"])
def test_one_component_is_the_plain_loss(inner, mode):
    """Whatever the scope of false positives; a region loss of the one class, a cost of all voxels."""
    logits, _ = batch((9, 8), samples=1, channels=2 if mode == "softmax" else 1)
    labels = ball((9, 8), 2)
    ratio = "classes=[1]" if mode == "softmax" and inner in ("Dice", "Jaccard", "FocalTversky") else ""
    plain = L.parse(f"{inner}({ratio})" if ratio else inner, mode=mode)(logits, labels)
    for scope in ("shared", "split", "voronoi"):
        ours = L.BlobLoss(L.parse(inner, mode=mode), fp_scope=scope)(logits, labels)
        torch.testing.assert_close(ours, plain, rtol=1e-12, atol=0)
    if not inner.startswith("TopK"):
        torch.testing.assert_close(
            L.ComponentLoss(L.parse(inner, mode=mode))(logits, labels), plain, rtol=1e-12, atol=0
        )


def test_voronoi_scope_is_the_loss_of_cells():
    logits, labels = batch((9, 8))
    blob = L.BlobLoss(L.DiceLoss(), fp_scope="voronoi")
    torch.testing.assert_close(
        value_and_gradient(blob, logits, labels), value_and_gradient(L.ComponentLoss(L.DiceLoss()), logits, labels)
    )


def test_cross_entropy_inside_lowers_the_weight_of_the_foreground():
    """By the number of components: it does not balance their sizes, and its page says so."""
    logits, _ = batch((9, 8), samples=1, channels=2)
    labels = torch.zeros(1, 9, 8, dtype=torch.long)
    labels[0, 0, :4] = labels[0, 4, 2] = labels[0, 8] = 1
    plain = L.CrossEntropyLoss(class_weight=[1.0, 1 / 3])(logits, labels)
    torch.testing.assert_close(L.BlobLoss(L.CrossEntropyLoss())(logits, labels), plain, rtol=1e-7, atol=0)


def test_a_missed_small_object_costs_as_much_as_a_missed_large_one():
    """Where Dice hardly sees it."""
    labels = torch.zeros(1, 40, 40, dtype=torch.long)
    labels[0, 2:22, 2:22], labels[0, 35, 35] = 1, 2
    truth = (labels > 0).long()
    found = torch.full((1, 2, 40, 40), 0.0)
    losses = {}
    for missed in (1, 2):
        found[:, 1] = torch.where((labels > 0) & (labels != missed), 12.0, -12.0)
        for name in ("Dice(classes=[1])", "Blob(Dice)", "Component(Dice)"):
            losses[name, missed] = L.parse(name)(found, truth).item()
    assert losses["Dice(classes=[1])", 2] < 0.01 < 0.9 < losses["Dice(classes=[1])", 1]
    for name in ("Blob(Dice)", "Component(Dice)"):
        assert losses[name, 1] == pytest.approx(losses[name, 2], abs=0.02) == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize("loss", ["Blob(Dice)", "Blob(CE)", "Component(Dice)", "BidirectionalComponent(Dice)"])
def test_samples_without_components_leave_the_mean(loss):
    """Without a gradient; and where no sample has any, false positives cost something."""
    loss, (logits, labels) = L.parse(loss), batch((6, 5), channels=2)
    labels[1:] = 0
    value, gradient = value_and_gradient(loss, logits, labels)
    torch.testing.assert_close(value, loss(logits[:1], labels[:1]), rtol=1e-12, atol=0)
    assert not gradient[1:].any()
    value, gradient = value_and_gradient(loss, logits[1:], labels[1:])
    torch.testing.assert_close(value, logits[1:].softmax(1)[:, 1].mean(), rtol=1e-12, atol=0)
    assert (gradient[:, 1] > 0).all()


def test_number_and_order_of_components_do_not_matter():
    """Ids may be given, as of touching instances; in any order, and with gaps."""
    logits, _ = batch((6, 9), samples=1, channels=2)
    labels = torch.zeros(1, 6, 9, dtype=torch.long)
    labels[0, 1:3, 1:4] = labels[0, 4:, 2:] = 1
    name = L.BlobLoss(L.DiceLoss()).asked("components")
    ids = torch.zeros(1, 6, 9, dtype=torch.int32)
    ids[0, 1:3, 1:4], ids[0, 4:, 2:] = 7, 3
    for inner in ("Dice", "CE", "TopK(k=0.2)"):
        loss = L.BlobLoss(L.parse(inner))
        given = loss(logits, Target(labels, prepared={name: ids}))
        torch.testing.assert_close(given, loss(logits, labels), rtol=1e-12, atol=0)
    split = ids.clone()
    split[0, 4:, 5:] = 5  # two that touch
    three = L.BlobLoss(L.DiceLoss())(logits, Target(labels, prepared={name: split}))
    assert not torch.isclose(three, L.BlobLoss(L.DiceLoss())(logits, labels))
    for text in ("Component(Dice)", "Component(CE)", "Blob(Dice, fp_scope='voronoi')"):  # cells are those of given ids
        loss = L.parse(text)
        given = loss(logits, Target(labels, prepared={name: ids}))
        torch.testing.assert_close(given, loss(logits, labels), rtol=1e-12, atol=0)
        assert not torch.isclose(loss(logits, Target(labels, prepared={name: split})), given)


def test_two_hundred_components_of_one_voxel():
    logits = torch.randn(1, 2, 40, 40, dtype=torch.float64)
    labels = torch.zeros(1, 40, 40, dtype=torch.long)
    labels[0, ::2, ::4] = 1
    ours = value_and_gradient(L.BlobLoss(L.DiceLoss()), logits, labels)
    leaf = logits.clone().requires_grad_()
    expected = literal("Dice", "shared", leaf, labels, False)
    torch.testing.assert_close(ours[0], expected.detach(), rtol=1e-10, atol=0)
    torch.testing.assert_close(ours[1], torch.autograd.grad(expected, leaf)[0], rtol=1e-10, atol=1e-14)


def test_a_few_false_voxels_beside_a_huge_component_are_counted():
    """In float32: their mass is summed by itself, and not as the difference of two sums over a million voxels."""
    labels = torch.zeros(1, 120, 120, 120, dtype=torch.long)
    labels[0, :, :, :110] = 1
    labels[0, 60, 60, 118] = 1
    logits = torch.zeros(1, 2, 120, 120, 120)
    logits[:, 1] = torch.where(labels == 1, 18.0, -18.0)
    logits[0, 1, 60, 60, 115] = -3.0
    wide = L.BlobLoss(L.DiceLoss())(logits.double(), labels)
    torch.testing.assert_close(L.BlobLoss(L.DiceLoss())(logits, labels).double(), wide, rtol=1e-4, atol=0)
    assert wide > 0.01


def test_touching_components_of_other_classes_stay_apart():
    logits, _ = batch((4, 6), samples=1)
    labels = torch.tensor([[[0, 0, 1, 1, 2, 2]] * 4])
    by_class = [L.DiceLoss(classes=[c])(logits, labels) for c in (1, 2)]
    torch.testing.assert_close(L.BlobLoss(L.DiceLoss())(logits, labels), torch.stack(by_class).mean())


def test_masked_probabilities_not_masked_logits():
    """A perfect prediction costs nothing; masking logits, as an example elsewhere does, makes it cost nearly 1."""
    labels = torch.zeros(1, 30, 30, dtype=torch.long)
    labels[0, ::3, ::3] = 1
    logits = (labels[:, None] * 40.0) - 20
    assert L.BlobLoss(L.DiceLoss(mode="sigmoid"))(logits, labels) < 1e-5
    values = []
    for blob in blobs_of(labels[0], 1):
        p = (logits[0, 0] * (blob | (labels[0] == 0))).sigmoid()
        values.append(1 - 2 * (p * blob).sum() / (p.sum() + blob.sum()))
    assert torch.stack(values).mean() > 0.8


def test_predicted_components_pull_down_a_lone_false_positive():
    """Its cell holds no true voxel: overlap would be constant there."""
    labels = torch.zeros(1, 5, 20, dtype=torch.long)
    labels[0, 2, 2] = 1
    logits = torch.zeros(1, 2, 5, 20, dtype=torch.float64)
    logits[:, 1] = -9.0
    logits[0, 1, 2, 2] = logits[0, 1, 2, 17] = 9.0
    _, gradient = value_and_gradient(L.BidirectionalComponentLoss(L.DiceLoss()), logits, labels)
    assert gradient[0, 1, 2, 17] > 0
    one_way = value_and_gradient(L.ComponentLoss(L.DiceLoss()), logits, labels)[1]
    assert gradient[0, 1, 2, 17] > 1.5 * one_way[0, 1, 2, 17] > 0


def test_inverse_size_is_the_loss_with_those_weights():
    logits, _ = batch((2, 6), samples=1, channels=2)
    labels = torch.tensor([[[1, 0, 1, 1, 1, 0], [0, 0, 1, 1, 1, 0]]])  # |F| / (K |R|): 7 / 2 and 7 / 12
    weight = torch.where(labels == 0, 1.0, 7 / 12).double()
    weight[0, 0, 0] = 7 / 2
    for inner in ("CE", "Dice", "Focal", "Boundary", "Dice + 0.5*TopK(k=0.5)"):
        expected = value_and_gradient(L.parse(inner), logits, labels, weight)
        ours = value_and_gradient(L.parse(f"InverseSize({inner})"), logits, labels)
        torch.testing.assert_close(ours, expected, rtol=1e-6, atol=1e-9)


def test_text_of_mixtures():
    for text in ("2*Dice + Blob(Dice)", "Blob(Dice + 0.5*TopK(k=0.3), fp_scope='split', min_size=3)",
                 "Dice + Component(Dice + CrossEntropy, spacing=[1.0, 2.0])",
                 "BidirectionalComponent(Dice(mode='sigmoid'), predicted_weight=0.3)",
                 "InverseSize(Dice, weighting='volume', clip=[1.0, 200000.0])"):  # fmt: skip
        assert L.parse(text).expression() == text
    assert L.parse("Blob(Dice)", ignore_index=VOID, mode="sigmoid").inner.ignore_index == VOID
    parts = L.parse("2*Dice + Blob(Dice)").parts(*batch((6, 5)))
    assert list(parts) == ["2*Dice", "Blob(Dice)"]


def test_a_sum_inside_is_the_sum_of_both():
    logits, labels = batch((6, 5))
    one, other = (L.parse(text)(logits, labels) for text in ("Component(Dice)", "Component(CE)"))
    torch.testing.assert_close(L.parse("Component(Dice + 0.5*CE)")(logits, labels), one + 0.5 * other)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: L.parse("Blob(Boundary)"), "BlobLoss: the loss inside must be a sum over voxels or a ratio of such"),
        (lambda: L.parse("Component(TopK)"), "ComponentLoss: the loss inside must be"),
        (lambda: L.parse("Blob(CE(label_smoothing=0.1))"), "without label_smoothing"),
        (lambda: L.parse("Blob(Combo)"), "BlobLoss: the loss inside must be"),
        (lambda: L.BlobLoss("Dice"), "expected a loss inside, as in BlobLoss"),
        (lambda: L.InverseSizeLoss(3), "expected a loss inside, as in InverseSizeLoss"),
        (lambda: L.parse("Blob(Dice, fp_scope='none')"), "`fp_scope` must be one of"),
        (lambda: L.parse("Blob(Dice, connectivity=26)"), "`connectivity` must be one of"),
        (lambda: L.parse("Blob(Dice, min_size=0)"), "`min_size` must be an integer of at least 1"),
        (lambda: L.parse("InverseSize(CE, clip=[3, 1])"), "`clip` must be the smallest and the largest weight"),
        (lambda: L.parse("Blob(Dice(classes=[1]) + CE)"), "all terms inside must have the same `classes`"),
    ],
)
def test_what_is_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_too_many_components_are_refused_in_one_line():
    labels = torch.zeros(1, 2, 2 * 40_000, dtype=torch.long)
    labels[0, 0, ::2] = labels[0, 1, 1::2] = 1
    with pytest.raises(
        ValueError, match="expected at most 65536 connected components in one sample; got 80000"
    ) as error:
        L.BlobLoss(L.DiceLoss(), connectivity="face")(torch.zeros(1, 2, 2, 80_000), labels)
    assert "\n" not in str(error.value)


def test_components_are_named_by_what_is_asked():
    assert L.BlobLoss(L.DiceLoss(), min_size=4).asked("components") == Geometry("components", None, "full", 4)
    assert L.BlobLoss(L.DiceLoss(mode="sigmoid")).asked("cells").kind == "all_cells"
    assert L.BlobLoss(L.DiceLoss(classes=[0, 1])).asked("components").kind == "all_components"


@pytest.mark.parametrize("bad", [[1.0], [0.0, 1.0], "ab", 2.0])
def test_spacing_of_cells_must_fit(bad):
    with pytest.raises(ValueError, match=r"`?spacing`?:? .*got"):
        L.BlobLoss(L.DiceLoss(), fp_scope="voronoi", spacing=bad)(*batch((6, 5)))
