"""`pool="batch"` over several processes (contract C12): one process with all the samples, split in any way.

One group of processes runs all splits, of which some leave a process without samples.
"""

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

import delineate.losses as L
from delineate.losses import counts, per_component
from losses.cases import CASES, DEFAULTS, batch, variant

VOID = 255
POOLED = [case for case in DEFAULTS if case.region and case.cls is not L.LovaszLoss]  # that one is no sum
POOLED += [variant(L.DiceLoss, squared=True)]
RANKS = 3
SPLITS = {
    "1+2+1": (1, 2, 1),
    "2+2+0": (2, 2, 0),
    "1+3+0": (1, 3, 0),
    "4+0+0": (4, 0, 0),
    "2+1+1, all but the first ignored": (2, 1, 1),
}


def problem(mode, ignored):
    """Four samples, with class 2 in the first only, and where the ranks must agree that it is there."""
    logits, target = batch((5, 4), samples=4, mode=mode)
    target[1:][target[1:] == 2] = 0
    target[:, 0, 0] = VOID
    if ignored:
        target[2:] = VOID
    return logits, target


def losses(mode):
    common = {"mode": mode, "pool": "batch", "ignore_index": VOID}
    for case in POOLED:
        yield from (case.build(**common, absent=absent) for absent in ("skip", "count"))
    yield L.DiceLoss(**common) + L.GeneralizedDiceLoss(**common)


def value_and_gradient(loss, scale, logits, target):
    """Of a model with one parameter that scales the logits."""
    value = loss(scale * logits, target)
    (gradient,) = torch.autograd.grad(value, scale)
    return torch.stack([value.detach(), gradient])


def share(rank, split, ignored):
    """Of each loss, its value and gradient on the samples of one rank, the gradient averaged over the ranks."""
    found = []
    for mode in ("softmax", "sigmoid"):
        logits, target = problem(mode, ignored)
        mine = slice(sum(split[:rank]), sum(split[: rank + 1]))
        for loss in losses(mode):
            scale = torch.ones((), dtype=torch.float64, requires_grad=True)
            pair = value_and_gradient(loss, scale, logits[mine], target[mine])
            mean = pair[1].clone()
            dist.all_reduce(mean)  # as DistributedDataParallel does
            found.append(torch.stack([pair[0], mean / RANKS]))
    return torch.stack(found)


def work(rank, folder):
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=RANKS)
    torch.set_num_threads(1)
    found = {name: share(rank, split, "ignored" in name) for name, split in SPLITS.items()}
    torch.save(found, f"{folder}/{rank}.pt")
    dist.barrier()  # no rank takes the group apart while another still uses it
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def by_rank(tmp_path_factory):
    """What each rank found, by the name of the split."""
    folder = tmp_path_factory.mktemp("ranks")
    mp.spawn(work, (folder,), nprocs=RANKS)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(RANKS)]


@pytest.mark.parametrize("name", SPLITS)
def test_ranks_give_the_value_and_gradient_of_one_process(name, by_rank):
    one = torch.ones((), dtype=torch.float64, requires_grad=True)
    expected = torch.stack(
        [
            value_and_gradient(loss, one, *problem(mode, "ignored" in name))
            for mode in ("softmax", "sigmoid")
            for loss in losses(mode)
        ]
    )
    for found in by_rank:
        torch.testing.assert_close(found[name], expected, rtol=1e-10, atol=1e-12)


def test_only_pooled_losses_of_counts_wait_for_other_ranks(monkeypatch):
    calls = []
    for module in (counts, per_component):
        monkeypatch.setattr(module, "sum_over_ranks", lambda table: calls.append(table) or table)
    logits, target = batch()
    for case in CASES:
        case.build()(logits, target)
    assert not calls
    for case in POOLED:
        case.build(pool="batch")(logits, target)
    own = [case for case in POOLED if case.spatial and case.cls is not L.InverseSizeLoss]
    assert len(calls) == len(POOLED) + len(own)  # these have sums of their own, too
