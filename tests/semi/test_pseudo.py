"""The loss of pseudo labels against its sum, where nothing counts, and over two processes."""

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

import delineate.losses as L
from delineate.ops.ranks import share_of_ranks
from delineate.semi.pseudo import pseudo_label_loss
from delineate.semi.selectors import FixedThreshold
from reference import semi as reference

norms = pytest.mark.parametrize("norm", ["valid", "kept"])
RANKS = 2
CASES = {"unequal": ((3, 3), None), "one rank without valid voxels": ((3, 3), 3), "nothing valid": ((3, 3), 0)}
"""Samples by rank, and from which sample on nothing is valid."""
CASES |= {"one rank without samples": ((6, 0), None), "a rank with more": ((5, 1), None)}


def problem(space=(5, 4), samples=2, channels=3):
    logits = 2 * torch.randn(samples, channels, *space, dtype=torch.float64)
    labels = torch.randint(0, channels, (samples, *space))
    keep, valid = (torch.rand(samples, *space) > part for part in (0.4, 0.3))
    return logits, labels, keep, valid


def plain(logits, labels, keep, valid, norm):
    flat = (logits.flatten(2), *(x.flatten(1) for x in (labels, keep, valid)))
    return reference.pseudo_label_loss(*(x.numpy() for x in flat), norm)


@norms
@pytest.mark.parametrize("space", [(7,), (5, 4), (3, 2, 4)], ids=["1d", "2d", "3d"])
def test_equals_the_sum(space, norm):
    logits, labels, keep, valid = problem(space)
    expected = plain(logits, labels, keep, valid, norm)
    labels[~valid] = 99  # does not matter
    assert pseudo_label_loss(logits, labels, keep, valid, norm=norm).item() == pytest.approx(expected, rel=1e-12)


def test_norms_differ_by_the_kept_ratio():
    inputs = problem()
    _, _, keep, valid = inputs
    ratio = (keep & valid).sum() / valid.sum()
    assert 0.3 < ratio < 0.9
    published, kept = (pseudo_label_loss(*inputs, norm=norm) for norm in ("valid", "kept"))
    torch.testing.assert_close(published, kept * ratio, check_dtype=False, rtol=1e-6, atol=0)


@norms
def test_keep_may_be_a_weight(norm):
    logits, labels, _, valid = problem()
    keep = torch.rand(labels.shape, dtype=torch.float64)
    found = pseudo_label_loss(logits, labels, keep, valid, norm=norm)
    assert found.item() == pytest.approx(plain(logits, labels, keep, valid, norm), rel=1e-6)


@norms
def test_gradient_is_zero_where_nothing_is_learnt(norm):
    logits, labels, keep, valid = problem()
    logits.requires_grad_()
    (grad,) = torch.autograd.grad(pseudo_label_loss(logits, labels, keep, valid, norm=norm), logits)
    used = (keep & valid)[:, None].expand_as(grad)
    assert (grad[~used] == 0).all()
    assert (grad[used] != 0).all()
    divisor = valid.sum() if norm == "valid" else (keep & valid).sum()
    one_hot = torch.nn.functional.one_hot(labels, 3).movedim(-1, 1)
    expected = (logits.softmax(1) - one_hot) * used / divisor
    torch.testing.assert_close(grad, expected.detach(), rtol=1e-10, atol=1e-15)


@norms
@pytest.mark.parametrize("missing", ["keep", "valid"])
def test_nothing_is_zero_with_a_graph(norm, missing):
    logits, labels, keep, valid = problem()
    logits.requires_grad_()
    given = {"keep": keep, "valid": valid} | {missing: torch.zeros_like(keep)}
    value = pseudo_label_loss(logits, labels, **given, norm=norm)
    assert value.item() == 0
    assert not torch.autograd.grad(value, logits)[0].any()


@norms
def test_padding_does_not_matter(norm):
    logits, labels, keep, valid = problem()
    value = pseudo_label_loss(logits, labels, keep, valid, norm=norm)
    junk = torch.where(valid[:, None], logits, torch.nan).requires_grad_()
    found = pseudo_label_loss(junk, labels, keep | ~valid, valid, norm=norm)
    assert torch.equal(found, value)
    assert torch.autograd.grad(found, junk)[0].isfinite().all()


def test_no_gradient_to_where_labels_come_from():
    weak = (6 * torch.randn(2, 3, 5, 4)).requires_grad_()
    strong = torch.randn(2, 3, 5, 4, requires_grad=True)
    labels, keep = FixedThreshold(0.8)(weak.softmax(1))
    value = pseudo_label_loss(strong, labels, keep, torch.ones(2, 5, 4, dtype=torch.bool))
    assert torch.autograd.grad(value, weak, allow_unused=True, retain_graph=True)[0] is None
    assert torch.autograd.grad(value, strong)[0].any()
    soft = keep * weak.softmax(1).amax(1)
    for loss in (None, L.TopKLoss(k=1, ignore_index=-1)):
        value = pseudo_label_loss(strong, labels, soft, torch.ones(2, 5, 4, dtype=torch.bool), loss=loss)
        assert torch.autograd.grad(value, weak, allow_unused=True)[0] is None


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_kinds(dtype):
    logits, labels, keep, valid = problem()
    given = logits.to(dtype)
    before = [x.clone() for x in (given, labels, keep, valid)]
    for kind in (labels, labels.to(torch.uint8)):
        value = pseudo_label_loss(given, kind, keep, valid)
        assert value.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
        assert value.item() == pytest.approx(plain(given.double(), labels, keep, valid, "valid"), rel=1e-5)
    assert all(torch.equal(x, y) for x, y in zip((given, labels, keep, valid), before, strict=True))


def test_any_loss_that_takes_weight():
    logits, labels, keep, valid = problem()
    target, weight = labels.masked_fill(~valid, -1), keep.double()
    ce, dice = L.CrossEntropyLoss(ignore_index=-1), L.DiceLoss(ignore_index=-1)
    for loss in (ce, dice, ce + 0.5 * dice, L.Schedule(ce, dice, start=[1, 0], end=[0, 1], epochs=2)):
        found = pseudo_label_loss(logits, labels, keep, valid, loss=loss)
        torch.testing.assert_close(found, loss(logits, target, weight), rtol=1e-12, atol=0)
    torch.testing.assert_close(
        pseudo_label_loss(logits, labels, keep, valid, loss=ce), pseudo_label_loss(logits, labels, keep, valid)
    )


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"norm": "all"}, "norm.*'all'"),
        ({"norm": "kept", "loss": L.CrossEntropyLoss(ignore_index=-1)}, "norm.*'valid'.*'kept'"),
        ({"loss": L.CrossEntropyLoss()}, "ignore_index=-1"),
        ({"loss": L.CrossEntropyLoss(ignore_index=-1) + L.DiceLoss(ignore_index=255)}, "in every term"),
        ({"loss": L.CrossEntropyLoss(ignore_index=-1, reduction="none")}, "reduction 'mean'"),
        ({"labels": torch.zeros(2, 1, 5, 4, dtype=torch.int64)}, r"labels.*\(2, 5, 4\).*\(2, 1, 5, 4\)"),
        ({"keep": torch.ones(2, 4, 5)}, "keep"),
        ({"valid": torch.ones(2, 4, 5)}, "valid"),
        ({"valid": torch.ones(2, 5, 4)}, "valid.*bool.*float32"),
        ({"labels": torch.zeros(2, 5, 4)}, "labels.*integers.*float32"),
    ],
)
def test_refusals(change, words):
    logits, labels, keep, valid = problem()
    given = {"labels": labels, "keep": keep, "valid": valid} | change
    with pytest.raises(ValueError, match=words) as error:
        pseudo_label_loss(logits, **given)
    assert "\n" not in str(error.value)


def test_one_process_has_its_share():
    for count in (torch.tensor(5), torch.tensor([0.5, 0.0]), torch.ones(2, 2, dtype=torch.bool)):
        share = share_of_ranks(count)
        assert share.dtype == torch.float64
        assert torch.equal(share, torch.ones(count.shape, dtype=torch.float64))


def batch(name):
    """Six samples whose numbers of valid and kept voxels differ much."""
    torch.manual_seed(1)
    logits, labels, keep, valid = problem(samples=6)
    valid[3:, 1:] = False
    keep[:2] = torch.rand(2, 5, 4) > 0.9
    start = CASES[name][1]
    if start is not None:
        valid[start:] = False
    return logits, labels, keep, valid


def value_and_gradient(scale, norm, logits, *others):
    """Of a model with one parameter that scales the logits."""
    value = pseudo_label_loss(scale * logits, *others, norm=norm)
    (gradient,) = torch.autograd.grad(value, scale)
    return torch.stack([value.detach(), gradient])


def work(rank, folder):
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=RANKS)
    torch.set_num_threads(1)
    found = {"shares": share_of_ranks(torch.tensor([[3, 1, 0], [5, 0, 0]][rank]))}
    for name, (split, _) in CASES.items():
        mine = slice(sum(split[:rank]), sum(split[: rank + 1]))
        for norm in ("valid", "kept"):
            scale = torch.ones((), dtype=torch.float64, requires_grad=True)
            found[f"{name}, {norm}"] = value_and_gradient(scale, norm, *(x[mine] for x in batch(name)))
    torch.save(found, f"{folder}/{rank}.pt")
    dist.barrier()  # no rank takes the group apart while another still uses it
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def by_rank(tmp_path_factory):
    """What each rank found, by case and norm."""
    folder = tmp_path_factory.mktemp("ranks")
    mp.spawn(work, (folder,), nprocs=RANKS)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(RANKS)]


@norms
@pytest.mark.parametrize("name", CASES)
def test_mean_over_ranks_is_one_process(name, norm, by_rank):
    scale = torch.ones((), dtype=torch.float64, requires_grad=True)
    expected = value_and_gradient(scale, norm, *batch(name))
    found = torch.stack([rank[f"{name}, {norm}"] for rank in by_rank])
    torch.testing.assert_close(found.mean(0), expected, rtol=1e-12, atol=1e-15)
    assert expected.any() == (name != "nothing valid")


def test_shares_of_ranks(by_rank):
    assert [rank["shares"].tolist() for rank in by_rank] == [[0.75, 2.0, 1.0], [1.25, 0.0, 1.0]]
