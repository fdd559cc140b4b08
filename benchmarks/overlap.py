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
import os
import statistics
import warnings

import segmentation_models_pytorch as smp
import torch
from monai.losses.dice import DiceCELoss

from delineate.losses import CrossEntropyLoss, DiceLoss, parse
from delineate.ops import blocks
from side_by_side import RESULTS, LossFunction, Row, interleaved, measure, save, sizes

DICE_CE = ("8x21x512x512", "2x5x128x128x128", "1x105x96x96x96")
LOVASZ = ("1x5x128x128x128",)
FIVE = "Dice + CE + Focal + Tversky + TopK"
TABLE = RESULTS / "overlap.csv"


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


def noise(shape: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits and labels."""
    samples, classes, *space = shape
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(shape, generator=generator, requires_grad=True)
    return logits, torch.randint(0, classes, (samples, *space), generator=generator)


def measure_blocks(shape: tuple[int, ...], candidates: list[int], repeats: int) -> dict[str, float]:
    """Median milliseconds of delineate's Dice + CE for each number of logits per block, in interleaved rounds."""
    loss = DiceLoss() + CrossEntropyLoss()
    logits, labels = noise(shape)

    def step(size: int) -> None:
        blocks.BLOCK, logits.grad = size, None
        loss(logits, labels).backward()

    times = interleaved({f"{size}": lambda size=size: step(size) for size in candidates}, repeats)
    return {size: 1e3 * statistics.median(rounds) for size, rounds in times.items()}


def show(shape: str, rows: list[Row]) -> None:
    ours = rows[0].ms
    print(f"\n{shape}   forward + backward, {torch.get_num_threads()} threads")
    print(f"{'':46}{'ms':>8}{'ours / it':>11}{'it / ours':>11}{'memory, x logits':>19}")
    for row in rows:
        print(f"{row.library:46}{row.ms:8.0f}{ours / row.ms:11.2f}{row.ms / ours:11.2f}{row.memory:19.2f}")


def tell(shape: str, rows: list[Row]) -> None:
    """On the terminal and in the table."""
    show(shape, rows)
    lines = [{"shape": shape, "library": r.library, "ms": f"{r.ms:.1f}", "memory": f"{r.memory:.3f}"} for r in rows]
    save(TABLE, lines, ("monai", "segmentation-models-pytorch"))


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
    try:
        work = [(shape, sizes(shape), contenders) for shape, contenders in work]
    except ValueError as error:
        parser.error(str(error))
    for shape, sides, contenders in work:
        torch.compiler.reset()
        if options.blocks:
            found = measure_blocks(sides, options.blocks, options.repeats)
            print(shape, *(f"{size}: {ms:.0f} ms" for size, ms in found.items()), sep="   ")
        else:
            tell(shape, measure(*noise(sides), contenders(options.eager), options.repeats))
    if not options.blocks:
        print(f"\nappended to {TABLE}")


if __name__ == "__main__":
    main()
