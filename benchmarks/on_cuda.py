"""Time and memory of losses on a GPU, forward and backward, beside other libraries, in one run.

    python benchmarks/on_cuda.py [--shapes 8x21x512x512 ...] [--dtypes fp32 bf16] [--labels patches | noise]
                                 [--sections overlap instance distance] [--rounds 20] [--seconds 60]

All of a table get the same logits and int64 labels, on the GPU. The floor is the time to read the logits forward, to
read them again and to write their gradient backward, at the bandwidth of a copy on the device measured in the same run.
Before a table is measured, value and gradient of each of our losses are compared with those on the CPU, on a crop of
its inputs; the run stops where they differ.

Rounds are interleaved, after a warm-up; the figure is the median. "eager" is the call from Python as the idle GPU sees
it, gaps between launches included; "device" is the same work captured once as a CUDA graph and replayed, or "-" where
it cannot be captured; see `gpu`. Memory is the peak allocated beyond the inputs, the gradient of the logits included,
as a multiple of the logits. What runs out of memory or fails otherwise keeps its row, which says so. Rows are appended
to results/cuda.csv. The name of this file is not that of the package `cuda`, which PyTorch imports.
"""

import argparse
import statistics
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from delineate.losses import parse
from delineate.ops.components import connected
from delineate.target import Geometry, Target
from gpu import Call, Gpu
from instance import balls
from side_by_side import RESULTS, interleaved, save, sizes

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 2e-2}
"""Of values and gradients, as a share of the largest."""
CROP, SAMPLES = 61, 2
"""Longest side and most samples of what is compared with the CPU: an odd number, so that blocks end in a tail."""
EITHER_WAY = 4
"""Voxels whose gradient may differ if the loss keeps the hardest voxels, and rounding decides on the last."""
PASSES = 3
"""Over the logits: read forward, read backward, and the gradient written."""
PATCH = 32  # voxels from one knot of the random fields to the next
BALLS = 50
TABLE = RESULTS / "cuda.csv"
CLOCKS = ("eager", "device")
OURS, MONAI = "delineate Dice + CE", "MONAI DiceCELoss"
COMPILED_PEERS = (f"{MONAI}, compiled", "smp DiceLoss + CE, compiled")
OVER_FLOOR, OVER_COMPILED, OVER_MONAI, MEMORY = 1.5, 4.0, 8.0, 1.1
OVER_DICE, OVER_DISTANCES = 1.3, 20.0
"""What is aimed at."""

# --- figures


@dataclass(frozen=True)
class Row:
    """What one loss costs; None is not measured."""

    library: str
    eager: float | None = None  # ms
    device: float | None = None  # ms
    memory: float | None = None  # multiples of the logits
    note: str = ""


def floor_ms(size: int, bandwidth: float) -> float:
    """Milliseconds of the least traffic over logits of so many bytes."""
    return 1e3 * PASSES * size / bandwidth


def ratio(above: float | None, below: float | None) -> float | None:
    return None if above is None or not below else above / below


def shown(number: float | None, digits: int = 2) -> str:
    return "-" if number is None else f"{number:.{digits}f}"


def verdict(text: str, found: float | None, bound: float, least: bool = False) -> str:
    """A target, and whether it is met.

    >>> verdict("time over the floor", 1.4, 1.5)
    'time over the floor: 1.40, at most 1.5: met'
    """
    if found is None:
        return f"{text}: not measured"
    met = found >= bound if least else found <= bound
    return f"{text}: {found:.2f}, at {'least' if least else 'most'} {bound:g}: {'met' if met else 'NOT MET'}"


Verdicts = Callable[[dict[str, Row], float], Iterator[str]]
"""Of the rows by library, and the floor."""


def of_overlap(rows: dict[str, Row], floor: float) -> Iterator[str]:
    for clock in CLOCKS:
        ours, monai = getattr(rows[OURS], clock), getattr(rows[MONAI], clock)
        peers = [time for name in COMPILED_PEERS if (time := getattr(rows[name], clock)) is not None]
        best = min(peers, default=None)
        yield verdict(f"{clock}: Dice + CE over the floor", ratio(ours, floor), OVER_FLOOR)
        yield verdict(f"{clock}: the best compiled peer over Dice + CE", ratio(best, ours), OVER_COMPILED, least=True)
        yield verdict(f"{clock}: MONAI, not compiled, over Dice + CE", ratio(monai, ours), OVER_MONAI, least=True)
    yield verdict("memory of Dice + CE, x logits", rows[OURS].memory, MEMORY)


def of_instance(rows: dict[str, Row], floor: float) -> Iterator[str]:
    base, *others = rows.values()
    for clock in CLOCKS:
        for row in others:
            found = ratio(getattr(row, clock), getattr(base, clock))
            yield verdict(f"{clock}: {row.library} over Dice", found, OVER_DICE)


def of_distance(rows: dict[str, Row], floor: float) -> Iterator[str]:
    ours, theirs = rows.values()
    yield verdict(f"eager: {theirs.library} over ours", ratio(theirs.eager, ours.eager), OVER_DISTANCES, least=True)


def line(table: "Table", row: Row, first: Row, floor: float, gpu: Gpu, bandwidth: float) -> dict[str, object]:
    """A row of the file."""
    times = {clock: getattr(row, clock) for clock in CLOCKS}
    return {
        **{"section": table.section, "shape": table.shape, "dtype": table.dtype, "labels": table.kind},
        "library": row.library,
        **{f"{clock}_ms": shown(time, 4) for clock, time in times.items()},
        "floor_ms": shown(floor, 4),
        **{f"{clock}_over_floor": shown(ratio(time, floor), 3) for clock, time in times.items()},
        **{f"{clock}_over_first": shown(ratio(time, getattr(first, clock)), 3) for clock, time in times.items()},
        **{"memory": shown(row.memory, 3), "note": row.note},
        **{"gpu": gpu.name, "copy_tb_s": shown(bandwidth / 1e12, 3)},
    }


def show(table: "Table", rows: Sequence[Row], floor: float, bandwidth: float) -> None:
    print(f"\n{table.section}   {table.shape} {table.dtype}, labels: {table.kind}; forward + backward")
    beside = 2 * table.labels.nbytes / (PASSES * table.logits.nbytes)
    print(
        f"floor {floor:.4f} ms: {PASSES} x the logits at {bandwidth / 1e12:.2f} TB/s, that of a copy; labels are not "
        f"in it, and to read them twice takes {beside:.2f} x as long"
    )
    columns = "".join(f"{clock + ' ms':>12}{'/ floor':>9}{'/ first':>9}" for clock in CLOCKS)
    print(f"{'':56}{columns}{'memory, x logits':>19}")
    for row in rows:
        cells = ""
        for clock in CLOCKS:
            time = getattr(row, clock)
            over = (ratio(time, floor), ratio(time, getattr(rows[0], clock)))
            cells += f"{shown(time, 4):>12}" + "".join(f"{shown(number):>9}" for number in over)
        print(f"{row.library:56}{cells}{shown(row.memory):>19}   {row.note}".rstrip())
    for text in table.verdicts({row.library: row for row in rows}, floor):
        print(f"    {text}", flush=True)


# --- tables


class Contender(NamedTuple):
    loss: Callable[[Tensor, Any], Tensor]
    derived: tuple[Geometry, ...] = ()
    """What its target brings along; of none the target is the labels."""

    def target(self, labels: Tensor, classes: int, device: str) -> Tensor | Target:
        if not self.derived:
            return labels.to(device)
        target = Target(labels.cpu())
        for geometry in self.derived:
            target.find(geometry, (len(labels), classes, *labels.shape[1:]))
        return target.to(device)


class Table(NamedTuple):
    """Losses of the same inputs; the first is what the others are divided by."""

    section: str
    shape: str
    dtype: str
    kind: str  # of labels
    logits: Tensor
    labels: Tensor
    contenders: dict[str, Contender]
    verdicts: Verdicts


def patches(shape: tuple[int, ...], device: str) -> Tensor:
    """Labels (N, *S) in coherent patches: per voxel the largest of smooth random fields, one a class."""
    samples, classes, *space = shape
    generator, mode = torch.Generator().manual_seed(0), ("linear", "bilinear", "trilinear")[len(space) - 1]
    knots = [max(3, side // PATCH) for side in space]
    fields = (torch.randn(1, classes, *knots, generator=generator).to(device) for _ in range(samples))
    return torch.cat([F.interpolate(field, space, mode=mode).argmax(1) for field in fields])


def noise(shape: tuple[int, ...], device: str) -> Tensor:
    """Labels (N, *S), each by itself."""
    samples, classes, *space = shape
    generator = torch.Generator(device).manual_seed(0)
    return torch.randint(0, classes, (samples, *space), generator=generator, device=device)


def coloured_balls(shape: tuple[int, ...], device: str) -> Tensor:
    """Labels (1, *S) of balls of many sizes, of all classes but 0 in turn."""
    _, classes, side, *_ = shape
    ids = torch.from_numpy(connected(balls(side, BALLS)[1][0].numpy(), "full")[0])[None].long()
    return torch.where(ids > 0, 1 + (ids - 1) % (classes - 1), 0).to(device)


LABELS = {"patches": patches, "noise": noise, "balls": coloured_balls}


def inputs(shape: tuple[int, ...], dtype: torch.dtype, kind: str, device: str) -> tuple[Tensor, Tensor]:
    """Logits, mostly right, and labels."""
    labels = LABELS[kind](shape, device)
    logits = torch.randn(shape, generator=torch.Generator(device).manual_seed(1), device=device)
    logits.scatter_add_(1, labels[:, None], torch.full_like(labels[:, None], 2, dtype=logits.dtype))
    return logits.to(dtype).requires_grad_(), labels


def of_dice_ce(classes: int) -> dict[str, Contender]:
    from overlap import compiled, dice_ce  # here and below: other libraries are not loaded where there is no GPU

    losses = dice_ce(eager=True)
    return {name: Contender(loss) for name, loss in (losses | compiled(losses)).items()}


def of_instances(classes: int) -> dict[str, Contender]:
    texts = (f"Dice(classes={list(range(1, classes))})", "Blob(Dice)", "Component(Dice)")
    losses = {f"delineate {text}": parse(text) for text in texts}
    return {
        name: Contender(loss, tuple(need for need in loss.needs if isinstance(need, Geometry)))
        for name, loss in losses.items()
    }


def of_distances(classes: int) -> dict[str, Contender]:
    from boundary import hausdorff

    pair = hausdorff(str(list(range(1, classes))))
    return {f"delineate {pair.name}": Contender(parse(pair.ours)), pair.peer: Contender(pair.theirs)}


class Section(NamedTuple):
    shapes: Sequence[str]
    kind: str | None  # of labels; None: as asked for
    contenders: Callable[[int], dict[str, Contender]]
    verdicts: Verdicts


SECTIONS = {
    "overlap": Section(
        ("8x21x512x512", "2x5x128x128x128", "1x105x128x128x128", "16x150x512x512"), None, of_dice_ce, of_overlap
    ),
    "instance": Section(("1x2x128x128x128", "1x5x128x128x128"), "balls", of_instances, of_instance),
    "distance": Section(("1x5x128x128x128",), None, of_distances, of_distance),
}


def tables(device: str, options: argparse.Namespace) -> Iterator[Table]:
    for name in options.sections:
        section = SECTIONS[name]
        for shape in (name == "overlap" and options.shapes) or section.shapes:
            for dtype in options.dtypes:
                sides, kind = sizes(shape), section.kind or options.labels
                found = inputs(sides, DTYPES[dtype], kind, device)
                yield Table(name, shape, dtype, kind, *found, section.contenders(sides[1]), section.verdicts)


# --- the run


def crop(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """A part of both on the CPU, with no probability near 1/2, where a mask may fall either way."""
    place = (slice(CROP),) * (logits.ndim - 2)
    z, y = logits.detach()[:SAMPLES, :, *place].cpu(), labels[:SAMPLES, *place].cpu()
    return z + ((z.float().softmax(1) - 0.5).abs() < 1e-3).to(z.dtype), y


def outcome(contender: Contender, logits: Tensor, labels: Tensor, device: str) -> dict[str, Tensor]:
    """Value and gradient on a device, as float64 on the CPU."""
    z = logits.to(device).requires_grad_()
    value = contender.loss(z, contender.target(labels, logits.shape[1], device))
    (gradient,) = torch.autograd.grad(value, z)
    return {"value": value.detach().cpu().double(), "gradient": gradient.cpu().double()}


def check(name: str, table: Table, device: str) -> None:
    """Compare one of our losses on the device with the CPU.

    Raises:
        ArithmeticError: where they differ.
    """
    contender, (logits, labels) = table.contenders[name], crop(table.logits, table.labels)
    expected = outcome(contender, logits.clone(), labels, "cpu")
    for what, found in outcome(contender, logits.clone(), labels, device).items():
        shares = (found - expected[what]).abs() / expected[what].abs().max().clamp_min(1e-12)
        off = ~(shares <= TOLERANCE[logits.dtype])
        allowed = EITHER_WAY if what == "gradient" and "TopK" in name else 0
        if (off.any(1) if off.ndim else off).sum() > allowed:
            raise ArithmeticError(
                f"{name}: {what} on a crop of {table.shape} {table.dtype} differs from the CPU's by up to "
                f"{shares.max():.1e} of the largest; expected at most {TOLERANCE[logits.dtype]:g}"
            )


def attempt(run: Callable[[], Any], gpu: Gpu) -> tuple[Any, str]:
    """What it returns, or None and why it failed."""
    try:
        return run(), ""
    except Exception as error:  # of any kind: the others are still measured
        lines = str(error).strip().splitlines() or [""]
        told = "out of memory" if isinstance(error, torch.OutOfMemoryError) else f"{type(error).__name__}: {lines[0]}"
    gpu.release()
    return None, told[:120]


def measure(table: Table, gpu: Gpu, rounds: int, seconds: float) -> list[Row]:
    """All rows: first what can be had from Python, then the captures, whose failures may leave traces."""

    def step(contender: Contender) -> Call:
        target = contender.target(table.labels, table.logits.shape[1], gpu.device)
        return lambda: torch.autograd.grad(contender.loss(table.logits, target), table.logits)

    def warm(call: Call) -> int:
        for _ in range(2):
            call()
        return gpu.peak(call)

    calls = {name: step(contender) for name, contender in table.contenders.items()}
    peaks = {name: attempt(lambda call=call: warm(call), gpu) for name, call in calls.items()}
    calls = {name: call for name, call in calls.items() if peaks[name][0] is not None}
    eager = interleaved(calls, rounds, seconds, gpu.eager)
    captures = {name: attempt(lambda call=call: gpu.captured(call), gpu) for name, call in calls.items()}
    replays = {name: replay for name, (replay, _) in captures.items() if replay is not None}
    device = interleaved(replays, rounds, seconds, gpu.replayed)
    size, rows = table.logits.nbytes, []
    for name, (peak, failed) in peaks.items():
        times = [1e3 * statistics.median(found[name]) if name in found else None for found in (eager, device)]
        note = failed or (f"no graph: {captures[name][1]}" if captures[name][1] else "")
        rows.append(Row(name, *times, ratio(peak, size), note))
    return rows


def report(gpu: Gpu, options: argparse.Namespace) -> int:
    """Check, measure and save every table; returns the exit code."""
    bandwidth = gpu.bandwidth(options.rounds)
    print(f"{gpu.name}: a copy on the device reads and writes {bandwidth / 1e12:.2f} TB/s")
    for table in tables(gpu.device, options):
        torch.compiler.reset()
        try:
            for name in (name for name in table.contenders if name.startswith("delineate")):
                check(name, table, gpu.device)
        except ArithmeticError as error:
            print(f"on_cuda.py: {error}", file=sys.stderr)
            return 1
        torch.compiler.reset()  # so that nothing is compiled for sizes that vary
        rows, floor = measure(table, gpu, options.rounds, options.seconds), floor_ms(table.logits.nbytes, bandwidth)
        show(table, rows, floor, bandwidth)
        lines = [line(table, row, rows[0], floor, gpu, bandwidth) for row in rows]
        save(TABLE, lines, ("monai", "segmentation-models-pytorch"))
        gpu.release()
    print(f"\nappended to {TABLE}")
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shapes", nargs="+", help="of the section overlap")
    parser.add_argument("--dtypes", nargs="+", default=list(DTYPES), choices=DTYPES)
    parser.add_argument("--sections", nargs="+", default=list(SECTIONS), choices=SECTIONS)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=60, help="after which a table starts no other round")
    parser.add_argument("--labels", default="patches", choices=("patches", "noise"))
    options = parser.parse_args(arguments)
    try:
        for shape in options.shapes or ():
            sizes(shape)
    except ValueError as error:
        parser.error(str(error))
    if not torch.cuda.is_available():
        print(
            "on_cuda.py: PyTorch finds no GPU here; benchmarks/overlap.py and its like measure the CPU", file=sys.stderr
        )
        return 2
    warnings.simplefilter("ignore")
    return report(Gpu(), options)


if __name__ == "__main__":
    sys.exit(main())
