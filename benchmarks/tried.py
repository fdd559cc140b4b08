"""Parts of the pass in several ways, on one block of voxels: what docs/speed.md says was tried.

    python benchmarks/tried.py [--classes 5 21 105] [--threads 2]

Microseconds, medians over interleaved rounds.
"""

import argparse
import statistics
from collections.abc import Callable

import numpy as np
import torch

from delineate.ops.blocks import BLOCK, sum_by_class
from side_by_side import interleaved


def ways(classes: int) -> dict[str, dict[str, Callable[[], object]]]:
    """Alternatives by subject; the one in use is first."""
    voxels = BLOCK // classes
    labels, table = torch.randint(0, classes, (voxels,)), torch.randn(classes)
    values, e = torch.rand(voxels), torch.rand(classes, voxels)
    share = torch.rand(voxels)
    chosen, array = values > 0.9, values.numpy()
    return {
        "a number by label": {
            "index_select": lambda: table.index_select(0, labels),
            "indexing": lambda: table[labels],
            "take": lambda: table.take(labels),
        },
        "float64 sums by label": {
            "scatter_add in 8 lanes": lambda: sum_by_class(labels, values, classes),
            "bincount": lambda: torch.bincount(labels, values.double(), classes),
            "index_add": lambda: torch.zeros(classes, dtype=torch.float64).index_add_(0, labels, values.double()),
        },
        "mass of each class": {
            "multiply, then sum": lambda: (e * share).sum(1),
            "product with a vector (adds one by one)": lambda: e @ share,
            "products of short pieces": lambda: torch.einsum(
                "ckb,kb->ck", *(t[..., : voxels // 512 * 512].unflatten(-1, (-1, 512)) for t in (e, share))
            ).sum(1),
        },
        "the K-th largest of the block": {
            "numpy.partition": lambda: np.partition(array, voxels * 9 // 10),
            "torch.kthvalue": lambda: values.kthvalue(voxels * 9 // 10),
            "torch.topk": lambda: values.topk(voxels // 10),
        },
        "how many are chosen": {
            "numpy.count_nonzero": lambda: np.count_nonzero(chosen.numpy()),
            "torch sum": lambda: chosen.sum(),
        },
        "order of the block, largest first": {
            "sort of error and place as one integer": lambda: np.sort(
                (~array.view(np.uint32)).astype(np.uint64) << np.uint64(32) | np.arange(voxels, dtype=np.uint64)
            ),
            "torch.sort": lambda: values.sort(descending=True),
            "numpy.argsort": lambda: np.argsort(array),
        },
    }


def microseconds(calls: dict[str, Callable[[], object]], rounds: int = 31) -> dict[str, float]:
    return {name: 1e6 * statistics.median(found) for name, found in interleaved(calls, rounds).items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--classes", nargs="+", type=int, default=[5, 21, 105])
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for classes in options.classes:
        print(f"\n{classes} classes, {BLOCK // classes} voxels")
        for subject, calls in ways(classes).items():
            found = microseconds(calls)
            print(f"  {subject}: " + ", ".join(f"{name} {value:.0f}" for name, value in found.items()))


if __name__ == "__main__":
    main()
