"""Every method's loss against its formula, written down in loops; what learns from what; what is refused."""

import copy

import numpy as np
import pytest
import torch
from halved import Halves, Plain, labelled, views
from torch import nn
from torch.nn import functional as F

import delineate.losses as L
from delineate.semi import DSSN, METHODS, At, FixMatch, MeanTeacher, Network, Supervised, UniMatch, parse_method
from delineate.semi.features import channel_dropout
from delineate.semi.mixing import partners
from delineate.semi.selectors import FixedThreshold, NoSelection
from delineate.training.models import build_model
from reference import semi as reference

LATER = At(step=7, epoch=2, share=0.4)
TEACHING = [name for name, cls in METHODS.items() if cls().decay is not None]


class Case:
    """A student, a teacher unlike it, a batch, and the method's answer to them."""

    def __init__(self, method, net=None, at=LATER, size=(6, 5), classes=4, samples=3, dtype=torch.float64):
        self.method = method
        self.model = (net or Halves(classes, len(size))).to(dtype).train()
        method.attach(self.model, classes)
        if method.teacher is not None:
            for tensor in method.teacher.model.parameters():
                tensor += 0.2 * torch.randn_like(tensor)
        self.images, self.labels = labelled(size, classes=classes, dtype=dtype)
        self.unlabelled = views(size, samples, dtype=dtype)
        self.before = copy.deepcopy(self.model)
        self.found = method(Network(self.model), self.images, self.unlabelled, self.supervised, at)

    def supervised(self, logits):
        return {"supervised": F.cross_entropy(logits, self.labels)}

    def logits(self):
        """Of every pass of a network whose outputs do not depend on the batch, an image at a time."""
        seen, boxes, model = self.unlabelled, self.unlabelled.boxes.numpy(), self.before
        partner = partners(len(seen.weak)).numpy()
        passes = {"weak": model(seen.weak)}
        for k in range(seen.strong.shape[1]):
            view = seen.strong[:, k].numpy()
            if not isinstance(self.method, MeanTeacher):
                view = reference.mixed_maps(view, partner, boxes[:, k])
            passes[f"strong{k}"] = model(torch.from_numpy(view))
        for k in range(len(self.method.weak)):
            features = model.encode(seen.weak)
            masks = channel_dropout([torch.ones_like(f) for f in features], 0.5, seen.draw + k)
            passes[f"dropped{k}"] = model.decode([f * mask for f, mask in zip(features, masks, strict=True)])
        if self.method.teacher is not None:
            passes["teacher"] = self.method.teacher.model(seen.weak)
        found = {name: logits.detach().numpy() for name, logits in passes.items()}
        return found, seen.valid.numpy(), partner, boxes

    def labelled_loss(self):
        return F.cross_entropy(self.before(self.images), self.labels).item()

    def kept(self):
        return {name: share.item() for name, share in self.found.watched.items() if name.startswith("kept/")}


def assert_terms(found, expected, rel=1e-9):
    terms = {name: term.item() for name, term in found.terms.items()}
    assert list(terms) == list(expected)
    for name, value in expected.items():
        assert terms[name] == pytest.approx(value, rel=rel), name
        assert value > 0, name
    assert found.loss.item() == pytest.approx(sum(expected.values()), rel=1e-6)


SIZES = pytest.mark.parametrize("size", [(6, 5), (4, 3, 4)], ids=["2d", "3d"])


@SIZES
def test_supervised(size):
    case = Case(Supervised(), size=size)
    assert_terms(case.found, {"supervised": case.labelled_loss()})
    torch.testing.assert_close(case.found.logits, case.before(case.images))


@SIZES
def test_fixmatch(size):
    case = Case(FixMatch(), size=size)
    assert 0.1 < case.kept()["kept/strong0"] < 0.9
    assert_terms(case.found, reference.fixmatch(*case.logits(), case.labelled_loss()))


@SIZES
def test_unimatch(size):
    case = Case(UniMatch(), size=size)
    assert all(0.1 < share < 0.9 for share in case.kept().values())
    assert_terms(case.found, reference.unimatch(*case.logits(), case.labelled_loss()))


@SIZES
@pytest.mark.parametrize("agree_on", ["same_content", "all"])
def test_dssn(size, agree_on):
    case = Case(DSSN(agree_on=agree_on), size=size)
    assert all(0.1 < share < 0.9 for share in case.kept().values())
    assert_terms(case.found, reference.dssn(*case.logits(), case.labelled_loss(), agree_on), rel=1e-6)


def test_dssn_of_cityscapes_keeps_all():
    case = Case(DSSN(selector=NoSelection(), warmup_epochs=5), at=At(step=900, epoch=5, share=0.02))
    expected = reference.dssn(
        *case.logits(), case.labelled_loss(), "same_content", lambda p: reference.fixed_threshold(p, 0)
    )
    assert_terms(case.found, expected, rel=1e-6)
    assert set(case.kept().values()) == {1.0}


def test_what_is_compared_matters():
    values = []
    for agree_on in ("same_content", "all"):
        torch.manual_seed(3)
        values.append(Case(DSSN(agree_on=agree_on)).found.terms)
    for name in ("agree/strong", "agree/weak"):
        assert values[0][name].item() != pytest.approx(values[1][name].item(), rel=1e-3)


@SIZES
@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
def test_mean_teacher(size, share):
    case = Case(MeanTeacher(), at=At(step=7, share=share), size=size)
    logits, valid, _, _ = case.logits()
    assert_terms(case.found, reference.mean_teacher(logits, valid, case.labelled_loss(), share), rel=1e-5)


def test_a_ramp_over_a_part_of_the_steps():
    weights = [MeanTeacher(ramp=0.5).weight(MeanTeacher().streams[0], At(share=share)) for share in (0.2, 0.5, 0.9)]
    assert weights == pytest.approx([0.1 * np.exp(-5 * 0.36), 0.1, 0.1])


@pytest.mark.parametrize("name", ["fixmatch", "unimatch", "dssn"])
def test_another_loss_of_pseudo_labels(name):
    """Here one that is not a mean over voxels, so nothing can be scaled into the right value."""
    case = Case(parse_method(f"{name}(pseudo='Dice + 0.5*Focal', selector=NoSelection())"))
    logits, valid, partner, boxes = case.logits()
    inside = torch.from_numpy(reference.mixed(valid, partner, boxes[:, 0]))
    source = logits["teacher" if name == "dssn" else "weak"]
    labels = torch.from_numpy(reference.mixed_maps(source, partner, boxes[:, 0]).argmax(1))
    loss = L.DiceLoss(ignore_index=-1) + 0.5 * L.FocalLoss(ignore_index=-1)
    value = loss(torch.from_numpy(logits["strong0"]), labels.masked_fill(~inside, -1))
    weight = {"fixmatch": 0.5, "unimatch": 0.125, "dssn": 0.125}[name]
    assert case.found.terms["strong0"].item() == pytest.approx(weight * value.item(), rel=1e-9)


def test_the_norm_of_pseudo_losses():
    torch.manual_seed(3)
    valid = Case(FixMatch())
    torch.manual_seed(3)
    kept = Case(FixMatch(norm="kept"))
    ratio = valid.kept()["kept/strong0"]
    assert 0.1 < ratio < 0.9
    assert kept.found.terms["strong0"].item() * ratio == pytest.approx(valid.found.terms["strong0"].item(), rel=1e-6)


@pytest.mark.parametrize(
    ("method", "warm", "cold"),
    [
        (DSSN(), At(0, 0), At(1, 0)),
        (DSSN(warmup_iterations=3), At(2, 0), At(3, 0)),
        (DSSN(warmup_iterations=0, warmup_epochs=5), At(99, 4), At(100, 5)),
        (DSSN(warmup_epochs=5), At(0, 5), At(1, 5)),
    ],
)
def test_warm_up(method, warm, cold):
    """The teacher is the student, whose labels alone count; agreement is on. Then it follows slowly."""
    case = Case(method, Halves(norm="batch"), at=warm)
    streams = ["supervised", "feature_a", "feature_b", "agree/strong", "agree/weak"]
    assert list(case.found.terms) == streams
    assert case.found.loss.item() == pytest.approx(sum(case.found.terms.values()).item(), rel=1e-6)
    method.after_step(case.model, warm)
    student, teacher = case.model.state_dict(), method.teacher.model.state_dict()
    assert all(torch.equal(student[name], teacher[name]) for name in student)
    with torch.no_grad():
        for tensor in case.model.parameters():
            tensor += 1
    before = {name: tensor.clone() for name, tensor in teacher.items()}
    method.after_step(case.model, cold)
    for name, tensor in method.teacher.model.state_dict().items():
        expected = 0.996 * before[name] + 0.004 * case.model.state_dict()[name]
        torch.testing.assert_close(tensor, expected.to(tensor.dtype), rtol=1e-6, atol=1e-9)
    found = method(Network(case.model), case.images, case.unlabelled, case.supervised, cold)
    assert list(found.terms) == ["supervised", "strong0", "strong1", *streams[1:]]


@pytest.mark.parametrize("name", TEACHING)
def test_labels_carry_no_gradient_to_the_teacher(name):
    method = parse_method(f"{name}(selector=NoSelection())" if name == "dssn" else name)
    model = Halves().double()
    method.attach(model, 4)
    method.teacher.requires_grad_(True)
    images, labels = labelled()
    found = method(Network(model), images, views(), lambda z: {"CE": F.cross_entropy(z, labels)}, LATER)
    found.loss.backward()
    assert all(tensor.grad is None for tensor in method.teacher.parameters())
    assert all(tensor.grad.abs().sum() > 0 for tensor in model.parameters())


@pytest.mark.parametrize("name", ["unimatch", "dssn"])
def test_labels_carry_no_gradient_to_the_weak_branch(name):
    """Of the logits of one decode, labelled ones and those with dropped features learn, clean weak ones do not."""
    passes = []

    class Recorded(Halves):
        def decode(self, features):
            logits = super().decode(features)
            if logits.requires_grad:  # not the teacher's
                logits.retain_grad()
                passes.append(logits)
            return logits

    case = Case(parse_method(f"{name}(selector=NoSelection())"), Recorded())
    case.found.loss.backward()
    together, strong = passes
    clean, weak, dropped = together.grad.split([2, 3, 3 * len(case.method.weak)])
    assert (weak == 0).all()
    assert all(part.abs().flatten(1).sum(1).gt(0).all() for part in (clean, dropped, strong.grad))


def test_labels_of_fixmatch_carry_no_gradient_to_the_weak_branch():
    case = Case(FixMatch(selector=NoSelection()))
    weak, strong = (view.clone().requires_grad_() for view in (case.unlabelled.weak, case.unlabelled.strong))
    seen = type(case.unlabelled)(weak, strong, case.unlabelled.valid, case.unlabelled.boxes, case.unlabelled.draw)
    case.method(Network(case.model), case.images, seen, case.supervised, LATER).loss.backward()
    assert weak.grad is None or (weak.grad == 0).all()
    assert (strong.grad[:, 0] != 0).any()
    assert (strong.grad[:, 1] == 0).all()  # a view that the method has no stream for


@pytest.mark.parametrize("name", ["meanteacher", "fixmatch", "unimatch", "dssn"])
@pytest.mark.parametrize("updates", [True, False])
def test_which_passes_move_the_running_statistics(name, updates):
    """The statistics are those of labelled and weak images alone, or then moved by the strong ones."""
    method = parse_method(f"{name}(strong_updates_bn={updates})")
    case = Case(method, Halves(norm="batch"))
    plain = case.before
    weak = [] if name == "meanteacher" else [case.unlabelled.weak]
    plain(torch.cat([case.images, *weak]))
    if updates:
        views = [torch.from_numpy(view) for view in strong_views(case)]
        plain(torch.cat(views))
    for name_, tensor in plain.norm.state_dict().items():
        torch.testing.assert_close(case.model.norm.state_dict()[name_], tensor)
    assert case.model.norm.num_batches_tracked == 1 + updates
    assert case.model.norm.track_running_stats


def strong_views(case):
    seen, partner = case.unlabelled, partners(3).numpy()
    for k in range(len(case.method.strong)):
        view = seen.strong[:, k].numpy()
        mixed = case.method.strong[k].mixed
        yield reference.mixed_maps(view, partner, seen.boxes[:, k].numpy()) if mixed else view


@pytest.mark.parametrize("name", list(METHODS))
def test_one_unlabelled_image_is_not_mixed(name):
    options = "(selector=NoSelection())" if name in ("fixmatch", "unimatch", "dssn") else ""
    case = Case(parse_method(name + options), samples=1)
    case.unlabelled.boxes[:] = torch.tensor([[1, 1], [4, 4]])
    terms = case.method(Network(case.model), case.images, case.unlabelled, case.supervised, LATER).terms
    case.unlabelled.boxes[:] = 0
    for name_, value in case.method(
        Network(case.model), case.images, case.unlabelled, case.supervised, LATER
    ).terms.items():
        assert torch.equal(value, terms[name_])
        assert value.isfinite()
    assert len(terms) == {"supervised": 1, "meanteacher": 2, "fixmatch": 2, "unimatch": 4, "dssn": 7}[name]


@pytest.mark.parametrize("name", list(METHODS))
def test_nothing_valid_teaches_nothing(name):
    method, model = parse_method(name), Halves().double()
    method.attach(model, 4)
    (images, labels), seen = labelled(), views()
    seen.valid[:] = False
    found = method(Network(model), images, seen, lambda z: {"CE": F.cross_entropy(z, labels)}, LATER)
    found.loss.backward()
    assert found.loss.item() == pytest.approx(found.terms["CE"].item())
    assert all(tensor.grad.isfinite().all() for tensor in model.parameters())


def test_two_classes():
    with pytest.raises(ValueError, match=r"DSSN: its agreement needs at least 3 classes, got 2.*agree_weight=0"):
        DSSN().attach(Halves(2), 2)
    for method in (DSSN(agree_weight=0), UniMatch(), FixMatch(), MeanTeacher()):
        case = Case(method, classes=2)
        case.found.loss.backward()
        assert not any("agree" in name for name in case.found.terms)


@pytest.mark.parametrize("name", ["unimatch", "dssn"])
def test_networks_without_halves(name):
    with pytest.raises(ValueError, match=r"`encode` and `decode`; got Plain.*FixMatch") as error:
        parse_method(name).attach(Plain(), 4)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["supervised", "meanteacher", "fixmatch"])
def test_networks_without_halves_will_do_for_others(name):
    case = Case(parse_method(name), Plain())
    case.found.loss.backward()
    assert all(tensor.grad.abs().sum() > 0 for tensor in case.model.parameters())


def test_watched_numbers():
    case = Case(DSSN(selector=FixedThreshold(0.8)))
    logits, valid, _, _ = case.logits()
    differ = (logits["weak"].argmax(1) != logits["teacher"].argmax(1))[valid].mean()
    assert 0 < differ < 1
    assert case.found.watched["teacher_disagreement"].item() == pytest.approx(differ)
    p = reference.softmax(reference.flat(logits["weak"])).reshape(logits["weak"].shape)
    sure = (p.max(1) >= 0.8) & valid
    assert case.found.watched["kept/feature_a"].item() == pytest.approx(sure.sum() / valid.sum())
    for c, share in enumerate(case.found.watched["kept_by_class/feature_a"].tolist()):
        called = (p.argmax(1) == c) & valid
        assert share == pytest.approx((sure & called).sum() / max(called.sum(), 1), rel=1e-6)


@pytest.mark.parametrize("name", ["Unet", "DeepLabV3Plus", "FPN", "Linknet"])
def test_halves_of_smp(name):
    model = build_model(name, 3, encoder="mobilenet_v2").eval()
    assert_halves(model, torch.randn(1, 3, 64, 32))


@pytest.mark.parametrize("name", ["basic-unet-small", "segresnet"])
def test_halves_of_monai(name):
    model = build_model(name, 3, dims=3, channels=1).eval()
    assert_halves(model, torch.randn(1, 1, 32, 16, 16))


def assert_halves(model: nn.Module, images):
    network = Network(model)
    with torch.no_grad():
        features = network.encode(images)
        torch.testing.assert_close(network.decode(features), network(images), rtol=0, atol=0)
        assert len(features) > 2
        other = network.decode([torch.zeros_like(f) for f in features])
    assert not torch.equal(other, network(images))
