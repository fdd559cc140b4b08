"""Time and memory of boundary and structure losses, forward and backward, each beside a peer, in one run.

    python benchmarks/boundary.py [--repeats 7] [--seconds 90] [--threads 2] [--shapes 1x5x128x128x128 ...] [--long]
    python benchmarks/boundary.py --losses HausdorffDT Boundary        these pairs alone

Both of a pair get the same logits and labels, and start from them: one-hot labels, softmax, distance maps and
skeletons are made inside the timed call. Labels are smooth blobs, since distances and skeletons of noise are like no
data; logits follow them, a little displaced, below noise. Rounds are interleaved; the figure is the median over
rounds. A pair stops at --repeats rounds, or after the round in which it has used --seconds, with a round of each at
least; calls above 20 s have no warm-up. Memory is the peak of what torch's allocator hands out beyond the inputs, the
gradient of the logits included, as a multiple of the logits: arrays that scipy or numpy make on either side are not in
it. Rows are appended to results/boundary.csv.
"""

import argparse
import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass

import kornia.losses
import monai.losses
import torch
from torch import Tensor
from torch.nn import functional as F

from delineate.losses import parse
from side_by_side import RESULTS, LossFunction, Row, measure, save, sizes

SHAPES = ("1x5x128x128x128", "8x21x256x256")
BLOB = 16  # voxels from one knot of the random field to the next
INFORMATION = (
    "RMI",
    "SkeletonRecall",
    "AverageHausdorff",
    "WeightedHausdorff",
    "GeneralizedSurface",
    "BoundaryDoU",
    "DistancePenalizedCE",
    "ShapeAware",
)
TABLE = RESULTS / "boundary.csv"


@dataclass(frozen=True)
class Pair:
    ours: str  # an expression
    peer: str
    theirs: LossFunction
    at_most: float | None  # the target: our time over the peer's

    @property
    def name(self) -> str:
        return self.ours.partition("(")[0]


def blobs(shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Logits, partly right, and labels: per voxel the largest of smooth random fields, one a class."""
    samples, classes, *space = shape
    axes = tuple(range(1, 1 + len(space)))
    generator = torch.Generator().manual_seed(0)
    knots = torch.randn(samples, classes, *(max(3, side // BLOB) for side in space), generator=generator)
    labels = F.interpolate(knots, space, mode=("linear", "bilinear", "trilinear")[len(space) - 1]).argmax(1)
    displaced = labels.roll([max(1, side // 64) for side in space], axes)
    logits = torch.randn(shape, generator=generator).scatter_add_(1, displaced[:, None], torch.full(shape, 2.0))
    return logits.requires_grad_(), labels


def hausdorff(foreground: str) -> Pair:
    loss = monai.losses.HausdorffDTLoss(include_background=False, to_onehot_y=True, softmax=True)
    return Pair(f"HausdorffDT(classes={foreground})", "MONAI HausdorffDTLoss", lambda z, y: loss(z, y[:, None]), 0.2)


def erosion(dimensions: int) -> Pair:
    """kornia wants probabilities and labels (N, 1, *S), and scores class 0 too."""
    kind = kornia.losses.HausdorffERLoss3D if dimensions == 3 else kornia.losses.HausdorffERLoss
    loss, at_most = kind(alpha=2.0, k=10), 0.1 if dimensions == 3 else None
    return Pair("HausdorffErosion", f"kornia {kind.__name__}", lambda z, y: loss(z.softmax(1), y[:, None]), at_most)


def cl_dice(foreground: str, iterations: int) -> Pair:
    """MONAI adds up all classes before the ratio; ours is one ratio a class. The skeletons are the same."""
    loss = monai.losses.SoftclDiceLoss(iter_=iterations, include_background=False, to_onehot_y=True, softmax=True)
    ours = f"SoftClDice(iterations={iterations}, classes={foreground})"
    return Pair(ours, f"MONAI SoftclDiceLoss, {iterations}", lambda z, y: loss(z, y[:, None]), 0.2)


def pairs(classes: int, dimensions: int, long: bool) -> Iterator[Pair]:
    foreground = str(list(range(1, classes)))
    boundary = monai.losses.BoundaryLoss(to_onehot_y=True, softmax=True)
    cross_entropy = torch.nn.CrossEntropyLoss()
    yield hausdorff(foreground)
    yield cl_dice(foreground, 3)
    if long:
        yield cl_dice(foreground, 10)
    yield erosion(dimensions)
    yield Pair("Boundary", "MONAI BoundaryLoss", lambda z, y: boundary(z, y[:, None]), 0.2)
    yield Pair("StructuralSimilarity", "torch CE", cross_entropy, 4)
    for name in INFORMATION:
        if name == "WeightedHausdorff" and dimensions == 3:
            continue  # the time of all pairs of a voxel and a point: minutes
        yield Pair(name, "torch CE", cross_entropy, None)


def verdict(pair: Pair, ours: Row, theirs: Row) -> str:
    if pair.at_most is None:
        return "-"
    met = "met" if ours.ms <= pair.at_most * theirs.ms else "MISSED"
    return f"at most {pair.at_most:g}x its time: {met}"


def show_head(shape: str) -> None:
    print(f"\n{shape}   forward + backward, {torch.get_num_threads()} threads; memory in multiples of the logits")
    columns = f"{'ms ours':>10}{'peer':>10}{'peer / ours':>13}{'memory ours':>13}{'peer':>8}{'rounds':>8}"
    print(f"{'':22}{'peer':26}{columns}   target", flush=True)


def show(pair: Pair, ours: Row, theirs: Row) -> None:
    times = f"{ours.ms:10.1f}{theirs.ms:10.1f}{theirs.ms / ours.ms:13.2f}"
    rounds = f"{ours.rounds}, {theirs.rounds}"
    print(
        f"{pair.name:22}{pair.peer:26}{times}{ours.memory:13.2f}{theirs.memory:8.2f}{rounds:>8}"
        f"   {verdict(pair, ours, theirs)}",
        flush=True,
    )


def line(shape: str, row: Row, pair: Pair) -> dict[str, object]:
    """A row of the table."""
    return {
        "shape": shape,
        "loss": pair.ours,
        "library": row.library,
        "ms": f"{row.ms:.1f}",
        "memory": f"{row.memory:.3f}",
        "rounds": row.rounds,
        "target": pair.at_most or "",
    }


def run(shape: str, names: list[str] | None, options: argparse.Namespace) -> None:
    """All pairs, or those named, on one shape; each is saved as soon as it is measured."""
    sides = sizes(shape)
    logits, labels = blobs(sides)
    show_head(shape)
    for pair in pairs(sides[1], len(sides) - 2, options.long):
        if names and pair.name not in names:
            continue
        try:
            loss = parse(pair.ours)
        except ValueError as error:
            reason, *_ = str(error).split(". ")
            print(f"{pair.name:22}skipped: {reason}", flush=True)
            continue
        contenders = {f"delineate {pair.name}": loss, pair.peer: pair.theirs}
        ours, theirs = measure(logits, labels, contenders, options.repeats, options.seconds)
        show(pair, ours, theirs)
        save(TABLE, [line(shape, row, pair) for row in (ours, theirs)], ("monai", "kornia", "scipy"))


def main() -> None:
    known = [pair.name for pair in pairs(2, 2, long=False)]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=90, help="after which a pair starts no other round")
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--shapes", nargs="+", default=SHAPES)
    parser.add_argument("--losses", nargs="+", choices=known, metavar="NAME", help=", ".join(known))
    parser.add_argument("--long", action="store_true", help="SoftClDice with 10 iterations too: minutes a call in 3D")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    warnings.simplefilter("ignore")
    try:
        for shape in options.shapes:
            sizes(shape)
    except ValueError as error:
        parser.error(str(error))
    for shape in options.shapes:
        run(shape, options.losses, options)
    print(f"\nmeasured pairs are appended to {TABLE}")


if __name__ == "__main__":
    main()
