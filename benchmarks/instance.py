"""Time and memory of losses by instance, forward and backward, beside our own Dice and a literal loop, in one run.

    python benchmarks/instance.py [--repeats 9] [--seconds 120] [--threads 2] [--side 128] [--blobs 10 50 200]
    python benchmarks/instance.py --losses "Blob(Dice)" "Component(Dice)"        these expressions alone

All get the same logits, of two classes, and the same labels: balls of many sizes, one a cell of a grid. "prepared"
takes components and cells from a `Target` that has them, as training does whose workers derive them; "inside" derives
them in the timed call. The loop is blob loss as it is written down: softmax once, then for each component a mask, a
product and a Dice loss, differentiated by autograd. Rounds are interleaved; the figure is the median over rounds.
Memory is the peak of what torch's allocator hands out beyond the inputs, the gradient of the logits included, as a
multiple of the logits. Rows are appended to results/instance.csv.
"""

import argparse
import os

import torch
from torch import Tensor

from delineate.losses import parse
from delineate.ops.components import connected
from delineate.target import Target
from side_by_side import RESULTS, LossFunction, Row, measure, save

BASE = "Dice(classes=[1])"
LOSSES = (
    "Blob(Dice)",
    "Blob(Dice, fp_scope='split')",
    "Blob(CE)",
    "Dice(classes=[1]) + Blob(Dice)",
    "Component(Dice)",
    "InverseSize(Dice(classes=[1]))",
)
LOOP = "literal loop"
PREPARED, INSIDE, MEMORY, FASTER, SPREAD = 1.5, 4.0, 1.5, 50.0, 1.25
"""What is aimed at: time over Dice with labels prepared and with labelling inside; memory over Dice; the loop's time
over ours at 50 blobs; time with the most blobs over that with the fewest."""
TABLE = RESULTS / "instance.csv"


def balls(side: int, number: int) -> tuple[Tensor, Tensor]:
    """Logits (1, 2, *S) that find most of it below noise, and labels of so many balls of radius 1 up to their cell."""
    generator = torch.Generator().manual_seed(number)
    cells = next(n for n in range(1, side) if n**3 >= number)
    pitch = side / cells
    axis, labels = torch.arange(side), torch.zeros(side, side, side, dtype=torch.long)
    for place in range(number):
        at = [int((index + 0.5) * pitch) for index in (place // cells**2, place // cells % cells, place % cells)]
        radius = 1 + (pitch / 2 - 3) * torch.rand(1, generator=generator).item()
        far = [(axis - middle) ** 2 for middle in at]
        labels |= (far[0][:, None, None] + far[1][:, None] + far[2] <= radius**2).long()
    assert connected(labels.numpy(), "full")[1] == number
    logits = torch.randn(1, 2, side, side, side, generator=generator)
    logits[:, 1] += 4.0 * labels - 3
    return logits.requires_grad_(), labels[None]


def literal_loop(labels: Tensor) -> LossFunction:
    """Blob loss with Dice inside, component by component."""
    ids = torch.from_numpy(connected(labels[0].numpy(), "full")[0])[None]
    background, numbers = ids == 0, range(1, int(ids.max()) + 1)

    def loss(logits: Tensor, _: Tensor) -> Tensor:
        p, values = logits.softmax(1)[:, 1], []
        for number in numbers:
            blob = ids == number
            masked = p * (background | blob)
            values.append(1 - 2 * (masked * blob).sum() / (masked.sum() + blob.sum()))
        return torch.stack(values).mean()

    return loss


def contenders(labels: Tensor, expressions: list[str]) -> dict[str, LossFunction]:
    """What is timed, by its name in the table."""
    calls: dict[str, LossFunction] = {BASE: parse(BASE)}
    for text in expressions:
        loss, target = parse(text), Target(labels)
        calls[f"{text}, prepared"] = lambda z, _, loss=loss, target=target: loss(z, target)
        calls[f"{text}, inside"] = loss
    return calls


def verdicts(name: str, row: Row, base: Row, by_name: dict[str, Row], number: int) -> str:
    """The targets that a row of blob loss is held to, and whether it meets them."""
    if not name.startswith("Blob(Dice)"):
        return ""
    prepared = name.endswith("prepared")
    told = [f"time {'met' if row.ms <= (PREPARED if prepared else INSIDE) * base.ms else 'MISSED'}"]
    if prepared:
        told.append(f"memory {'met' if row.memory <= MEMORY * base.memory else 'MISSED'}")
        if LOOP in by_name and number == 50:
            told.append(f"loop {'met' if by_name[LOOP].ms >= FASTER * row.ms else 'MISSED'}")
    return ", ".join(told)


def run(number: int, options: argparse.Namespace) -> dict[str, Row]:
    """All rows of one number of blobs, shown and saved."""
    logits, labels = balls(options.side, number)
    calls = contenders(labels, options.losses)
    rows = measure(logits, labels, calls, options.repeats, options.seconds)
    if not options.no_loop:  # apart: what runs next has to fetch again the memory that the loop gave back
        rows += measure(logits, labels, {LOOP: literal_loop(labels)}, options.repeats, options.seconds)
    by_name, base = {row.library: row for row in rows}, rows[0]
    share = 100 * labels.double().mean().item()
    print(
        f"\n1x2x{options.side}^3, {number} blobs, {share:.2f} % foreground; forward + backward, "
        f"{options.threads} threads"
    )
    print(f"{'':46}{'ms':>10}{'/ Dice':>9}{'memory':>9}{'/ Dice':>9}{'rounds':>8}   targets")
    for row in rows:
        figures = f"{row.ms:10.1f}{row.ms / base.ms:9.2f}{row.memory:9.2f}{row.memory / base.memory:9.2f}{row.rounds:8}"
        print(f"{row.library:46}{figures}   {verdicts(row.library, row, base, by_name, number)}", flush=True)
    place = {"side": options.side, "blobs": number}
    figures = [{"loss": r.library, "ms": f"{r.ms:.1f}", "memory": f"{r.memory:.3f}", "rounds": r.rounds} for r in rows]
    save(TABLE, [place | line for line in figures], ("scipy", "connected-components-3d"))
    return by_name


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=120, help="after which a table starts no other round")
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--side", type=int, default=128)
    parser.add_argument("--blobs", type=int, nargs="+", default=[10, 50, 200])
    parser.add_argument("--losses", nargs="+", default=list(LOSSES), metavar="EXPRESSION")
    parser.add_argument("--no-loop", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    tables = {number: run(number, options) for number in options.blobs}
    fewest, most = min(tables), max(tables)
    for name in [name for name in tables[fewest] if name.startswith("Blob(Dice") and name.endswith("prepared")]:
        ratio = tables[most][name].ms / tables[fewest][name].ms
        dice = tables[most][BASE].ms / tables[fewest][BASE].ms
        told = "met" if ratio <= SPREAD else "MISSED"
        print(f"{name}: {most} over {fewest} blobs {ratio:.2f} (Dice {dice:.2f}), at most {SPREAD}: {told}")
    print(f"\nappended to {TABLE}")


if __name__ == "__main__":
    main()
