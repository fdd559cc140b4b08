"""Time and memory of losses, forward and backward, beside other libraries, in one run.

    python benchmarks/overlap.py [--repeats 7] [--threads 2] [--shapes 8x21x512x512 ...] [--eager]
    python benchmarks/overlap.py --blocks 163840 655360 2621440        times of delineate alone by logits per block

Every library gets the same logits and labels. Rounds are interleaved (each round runs every library once), so that a
noisy moment of the machine meets them all; the figure is the median over rounds. Peers run as they are and under
`torch.compile` (without `fullgraph`, which most of them break). Memory is the peak of what the allocator hands out
beyond the inputs during one forward and backward pass, the gradient of the logits included, as a multiple of the
logits. Rows are appended to results/overlap.csv.
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

from delineate.losses import CrossEntropyLoss, DiceLoss, parse
from delineate.ops import blocks
from delineate.training.cost import peak_allocated

DICE_CE = ("8x21x512x512", "2x5x128x128x128", "1x105x96x96x96")
LOVASZ = ("1x5x128x128x128",)
FIVE = "Dice + CE + Focal + Tversky + TopK"
RESULTS = Path(__file__).parent / "results" / "overlap.csv"

LossFunction = Callable[[Tensor, Tensor], Tensor]


def compiled(losses: dict[str, LossFunction]) -> dict[str, LossFunction]:
    return {f"{name}, compiled": torch.compile(loss) for name, loss in losses.items()}


def dice_ce(eager: bool) -> dict[str, LossFunction]:
    """Dice + cross entropy, of logits (N, C, *S) and labels (N, *S); the first is what the others are divided by."""
    monai = DiceCELoss(to_onehot_y=True, softmax=True)
    smp_dice, cross_entropy = smp.losses.DiceLoss("multiclass"), torch.nn.CrossEntropyLoss()
    ours = {"delineate Dice + CE": parse("Dice + CE"), f"delineate {FIVE}": parse(FIVE)}
    peers = {
        "torch CE alone": cross_entropy,
        "MONAI DiceCELoss": lambda z, y: monai(z, y[:, None]),
        "smp DiceLoss + CE": lambda z, y: smp_dice(z, y) + cross_entropy(z, y),
    }
    return ours | peers | ({} if eager else compiled(peers))


def lovasz(eager: bool) -> dict[str, LossFunction]:
    peers = {"smp LovaszLoss": smp.losses.LovaszLoss("multiclass")}
    return {"delineate Lovasz": parse("Lovasz")} | peers | ({} if eager else compiled(peers))


def measure(shape: tuple[int, ...], losses: dict[str, LossFunction], repeats: int) -> list[dict[str, object]]:
    """One row per library."""
    torch.compiler.reset()
    samples, classes, *space = shape
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(shape, generator=generator, requires_grad=True)
    labels = torch.randint(0, classes, (samples, *space), generator=generator)
    times: dict[str, list[float]] = {name: [] for name in losses}

    def step(loss: LossFunction) -> None:
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
    ours = rows[0]["ms"]
    print(f"\n{shape}   forward + backward, {torch.get_num_threads()} threads")
    print(f"{'':46}{'ms':>8}{'ours / it':>11}{'it / ours':>11}{'memory, x logits':>19}")
    for row in rows:
        times = f"{row['ms']:8.0f}{ours / row['ms']:11.2f}{row['ms'] / ours:11.2f}"  # pyright: ignore
        print(f"{row['library']:46}{times}{row['memory']:19.2f}")


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
    parser.add_argument("--shapes", nargs="+", help="of Dice + CE; without it also that of Lovasz")
    parser.add_argument("--eager", action="store_true", help="leave out the compiled peers")
    parser.add_argument("--blocks", nargs="+", type=int)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    warnings.simplefilter("ignore")
    work = [(shape, dice_ce) for shape in options.shapes or DICE_CE]
    work += [(shape, lovasz) for shape in LOVASZ if not (options.shapes or options.blocks)]
    for shape, contenders in work:
        sizes = tuple(int(side) for side in shape.split("x"))
        if len(sizes) < 3 or math.prod(sizes) == 0:
            parser.error(f"--shapes: expected NxCx... such as 8x21x512x512; got {shape}")
        if options.blocks:
            found = measure_blocks(sizes, options.blocks, options.repeats)
            print(shape, *(f"{size}: {ms:.0f} ms" for size, ms in zip(options.blocks, found, strict=True)), sep="   ")
            continue
        rows = measure(sizes, contenders(options.eager), options.repeats)
        show(shape, rows)
        save(shape, rows)
    if not options.blocks:
        print(f"\nappended to {RESULTS}")


if __name__ == "__main__":
    main()
