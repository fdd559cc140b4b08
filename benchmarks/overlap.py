"""Time and memory of Dice + cross entropy, forward and backward, beside other libraries, in one run.

    python benchmarks/overlap.py [--repeats 7] [--threads 2] [--shapes 8x21x512x512 ...]
    python benchmarks/overlap.py --blocks 163840 655360 2621440        times of delineate alone by logits per block

Every library gets the same logits and labels. Rounds are interleaved (each round runs every library once), so that a
noisy moment of the machine meets them all; the figure is the median over rounds. Memory is the peak of what the
allocator hands out beyond the inputs during one forward and backward pass, the gradient of the logits included, as a
multiple of the logits. Rows are appended to results/overlap.csv.
"""

import argparse
import csv
import math
import os
import platform
import statistics
import time
import warnings
from collections.abc import Callable
from datetime import date
from importlib.metadata import version
from pathlib import Path

import segmentation_models_pytorch as smp
import torch
from monai.losses.dice import DiceCELoss
from torch import Tensor

from delineate.losses import CrossEntropyLoss, DiceLoss
from delineate.ops import blocks
from delineate.training.cost import peak_allocated

SHAPES = ("8x21x512x512", "2x5x128x128x128", "1x105x96x96x96")
RESULTS = Path(__file__).parent / "results" / "overlap.csv"


def contenders() -> dict[str, Callable[[Tensor, Tensor], Tensor]]:
    """Loss functions of logits (N, C, *S) and labels (N, *S)."""
    ours = DiceLoss() + CrossEntropyLoss()
    monai = DiceCELoss(to_onehot_y=True, softmax=True)
    smp_dice, cross_entropy = smp.losses.DiceLoss("multiclass"), torch.nn.CrossEntropyLoss()
    return {
        "delineate Dice + CE": ours,
        "torch CE alone": cross_entropy,
        "MONAI DiceCELoss": lambda z, y: monai(z, y[:, None]),
        "smp DiceLoss + CE": lambda z, y: smp_dice(z, y) + cross_entropy(z, y),
    }


def measure(shape: tuple[int, ...], repeats: int) -> list[dict[str, object]]:
    """One row per library."""
    samples, classes, *space = shape
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(shape, generator=generator, requires_grad=True)
    labels = torch.randint(0, classes, (samples, *space), generator=generator)
    losses = contenders()
    times: dict[str, list[float]] = {name: [] for name in losses}

    def step(loss: Callable[[Tensor, Tensor], Tensor]) -> None:
        logits.grad = None
        loss(logits, labels).backward()

    for turn in range(repeats + 1):
        for name, loss in losses.items():
            start = time.perf_counter()
            step(loss)
            if turn:  # the first round warms up
                times[name].append(time.perf_counter() - start)
    size = logits.numel() * logits.element_size()
    rows: list[dict[str, object]] = []
    for name, loss in losses.items():
        logits.grad = None
        memory = peak_allocated(lambda loss=loss: step(loss)) / size
        rows.append({"library": name, "ms": 1e3 * statistics.median(times[name]), "memory": memory})
    return rows


def measure_blocks(shape: tuple[int, ...], sizes: list[int], repeats: int) -> list[float]:
    """Median milliseconds of delineate's Dice + CE for each number of logits per block, in interleaved rounds."""
    loss, logits = DiceLoss() + CrossEntropyLoss(), torch.randn(shape, requires_grad=True)
    labels = torch.randint(0, shape[1], (shape[0], *shape[2:]))
    times: list[list[float]] = [[] for _ in sizes]
    for _ in range(repeats + 1):
        for place, blocks.BLOCK in enumerate(sizes):
            logits.grad = None
            start = time.perf_counter()
            loss(logits, labels).backward()
            times[place].append(time.perf_counter() - start)
    return [1e3 * statistics.median(rounds[1:]) for rounds in times]  # the first round warms up


def show(shape: str, rows: list[dict[str, object]]) -> None:
    monai = next(row["ms"] for row in rows if row["library"] == "MONAI DiceCELoss")
    print(f"\n{shape}   forward + backward, {torch.get_num_threads()} threads")
    print(f"{'':22}{'ms':>8}{'x MONAI':>10}{'memory, x logits':>19}")
    for row in rows:
        print(f"{row['library']:22}{row['ms']:8.0f}{row['ms'] / monai:10.2f}{row['memory']:19.2f}")  # type: ignore


def save(shape: str, rows: list[dict[str, object]]) -> None:
    place = {
        "date": date.today().isoformat(),
        "cpu": f"{platform.machine()}, {os.cpu_count()} cores",
        "threads": torch.get_num_threads(),
        **{name: version(name) for name in ("torch", "monai", "segmentation-models-pytorch")},
    }
    new = not RESULTS.exists()
    with RESULTS.open("a", newline="", encoding="utf-8") as file:
        lines = [{"shape": shape} | row | place for row in rows]
        writer = csv.DictWriter(file, list(lines[0]))
        if new:
            writer.writeheader()
        for line in lines:
            writer.writerow(line | {"ms": f"{line['ms']:.1f}", "memory": f"{line['memory']:.3f}"})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--shapes", nargs="+", default=SHAPES)
    parser.add_argument("--blocks", nargs="+", type=int)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    warnings.simplefilter("ignore")
    for shape in options.shapes:
        sizes = tuple(int(side) for side in shape.split("x"))
        if len(sizes) < 3 or math.prod(sizes) == 0:
            parser.error(f"--shapes: expected NxCx... such as 8x21x512x512; got {shape}")
        if options.blocks:
            found = measure_blocks(sizes, options.blocks, options.repeats)
            print(shape, *(f"{size}: {ms:.0f} ms" for size, ms in zip(options.blocks, found, strict=True)), sep="   ")
            continue
        rows = measure(sizes, options.repeats)
        show(shape, rows)
        save(shape, rows)
    if not options.blocks:
        print(f"\nappended to {RESULTS}")


if __name__ == "__main__":
    main()
