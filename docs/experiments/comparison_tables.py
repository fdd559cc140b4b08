"""Tables of a comparison, with intervals over seeds, as markdown.

    python docs/experiments/comparison_tables.py RUNS [PAGE] [--baseline CE ...]

RUNS is the folder that `delineate compare` wrote. The tables are printed, or written into PAGE between its two lines
`<!-- table -->`.
"""

import argparse
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from scipy.stats import t

from delineate.evaluation import holm
from delineate.report import Comparison, Run, read_results
from delineate.report.leaderboard import rare_iou
from delineate.report.results import RARE_SHARE

MARKER = "<!-- table -->"
LEVEL = 0.95
NOTES = (
    "± is half the {level:g} % t interval of the mean over seeds: chance between seeds, not between images. (n) "
    "stands where only n of the seeds have a number; - where there is no number, or one seed and so no interval."
)
PAIRED = (
    "Loss minus `{baseline}`, seed by seed, with the {level:g} % t interval of the mean difference. p: paired t test, "
    "two-sided, after Holm's correction over the losses of the row; not corrected over the rows."
)


@dataclass(frozen=True)
class Score:
    """A row of the tables: what is read from a run, and how it is written."""

    title: str
    read: Callable[[Run], float | None]
    digits: int = 3


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds; `half` is half the interval and `p` that of a mean of 0, both None for one seed."""

    mean: float
    half: float | None
    p: float | None
    count: int

    @classmethod
    def of(cls, values: Iterable[float | None]) -> "Estimate | None":
        """Of the values that exist; None where none does.

        >>> Estimate.of([None, 0.5])
        Estimate(mean=0.5, half=None, p=None, count=1)
        """
        known = [value for value in values if value is not None]
        if len(known) < 2:
            return cls(known[0], None, None, 1) if known else None
        mean = math.fsum(known) / len(known)
        freedom = len(known) - 1
        error = math.sqrt(math.fsum((value - mean) ** 2 for value in known) / freedom / len(known))
        p = 2 * t.sf(abs(mean) / error, freedom) if error else float(mean == 0)
        return cls(mean, float(t.ppf((1 + LEVEL) / 2, freedom)) * error, float(p), len(known))

    def text(self, digits: int, seeds: int, sign: str = "") -> str:
        """As `0.412 ± 0.031`, with the number of seeds where it is not `seeds`."""
        half = "-" if self.half is None else f"{self.half:.{digits}f}"
        return f"{self.mean:{sign}.{digits}f} ± {half}" + (f" ({self.count})" if self.count != seeds else "")


def quality(found: Comparison) -> list[Score]:
    """mIoU, mean Dice, the mean IoU of the rare classes, and the IoU of each class, the most frequent first."""
    return [
        Score("mIoU", lambda run: run.val.miou if run.val else None),
        Score("mean Dice", lambda run: run.val.mdice if run.val else None),
        Score(f"mean IoU of classes < {RARE_SHARE:g} %", lambda run: rare_iou(found, run)),
        *(
            Score(_class(found, name), lambda run, name=name: run.val.per_class["iou"][name] if run.val else None)
            for name in found.data.by_share
        ),
    ]


def _class(found: Comparison, name: str) -> str:
    share = found.data.train_share.get(name)
    return f"IoU {name.replace('|', '/')}" + (f" ({share:.1f} %)" if share is not None else "")


def cost() -> list[Score]:
    """Time of a step and of the loss alone."""
    return [
        Score("ms/step", lambda run: run.cost["ms_per_step"], 0),
        Score("loss ms", lambda run: run.cost["loss_ms"], 1),
    ]


def scores_table(found: Comparison) -> list[str]:
    """Every score of every loss."""
    lines = _head("score", found.losses)
    for score in quality(found) + cost():
        cells = [Estimate.of(map(score.read, found.of(loss))) for loss in found.losses]
        lines.append(_row(score.title, [cell.text(score.digits, len(found.seeds)) if cell else "-" for cell in cells]))
    return lines


def differences_table(found: Comparison, baseline: str) -> list[str]:
    """Every quality of every other loss minus that of the baseline, seed by seed."""
    losses = [loss for loss in found.losses if loss != baseline]
    lines = _head("difference", losses)
    for score in quality(found):
        paired = [Estimate.of(_differences(found, score, loss, baseline)) for loss in losses]
        texts = [cell.text(score.digits, len(found.seeds), "+") if cell else "-" for cell in paired]
        ps = holm([cell.p if cell else None for cell in paired])
        lines.append(_row(score.title, [text + _p(p) for text, p in zip(texts, ps, strict=True)]))
    return lines


def _differences(found: Comparison, score: Score, loss: str, baseline: str) -> list[float | None]:
    """Of each seed, None where a side has no number."""
    sides = [{run.seed: score.read(run) for run in found.of(name)} for name in (loss, baseline)]
    pairs = [(sides[0].get(seed), sides[1].get(seed)) for seed in found.seeds]
    return [None if a is None or b is None else a - b for a, b in pairs]


def setting(found: Comparison) -> str:
    """What was trained, on what, and whether it was the same for every loss."""
    budget, env = found.budget, found.env
    done = sum(run.status == "finished" for run in found.runs)
    alike = all(found.identical(fingerprint) for fingerprint in ("initial_weights", "batches"))
    return (
        f"{found.data.name}: {found.data.train_images} training and {found.data.val_images} validation images. "
        f"{budget.get('model')}; {budget.get('epochs')} epochs of batches of {budget.get('batch_size')}, "
        f"crop {budget.get('crop')}, learning rate {budget.get('lr')}, schedule {budget.get('schedule')}. "
        f"{done} of {len(found.losses) * len(found.seeds)} runs finished; start and batches of a seed are "
        f"{'the same' if alike else 'NOT known to be the same'} for all losses. "
        f"torch {env.get('torch')}, threads: {env.get('threads')}, {env.get('gpu') or 'CPU'}, {env.get('date')}."
    )


def tables(found: Comparison, baselines: list[str]) -> str:
    """All of it as markdown."""
    for baseline in baselines:
        if baseline not in found.losses:
            raise ValueError(f"--baseline {baseline}: expected one of {', '.join(map(repr, found.losses))}.")
    parts = [setting(found), "\n".join(scores_table(found)), NOTES.format(level=100 * LEVEL)]
    for baseline in baselines if len(found.losses) > 1 else []:
        parts.append(PAIRED.format(level=100 * LEVEL, baseline=baseline))
        parts.append("\n".join(differences_table(found, baseline)))
    return "\n\n".join(parts)


def write_between_markers(page: Path, text: str) -> None:
    """Replace what stands between the two markers of the page."""
    parts = page.read_text(encoding="utf-8").split(MARKER)
    if len(parts) != 3:
        raise ValueError(f"{page}: expected {MARKER} twice, found it {len(parts) - 1} times.")
    page.write_text(f"{parts[0]}{MARKER}\n\n{text}\n\n{MARKER}{parts[2]}", encoding="utf-8")


def _head(first: str, losses: list[str]) -> list[str]:
    return [_row(first, [f"`{loss}`" for loss in losses]), "|---|" + "---|" * len(losses)]


def _row(first: str, cells: list[str]) -> str:
    return f"| {' | '.join([first, *cells])} |"


def _p(p: float | None) -> str:
    return "" if p is None else ", p < 0.001" if p < 0.001 else f", p = {p:.3f}"


def main(arguments: list[str] | None = None) -> None:
    """The command line; a wrong folder, page or baseline ends in one line and exit code 2."""
    parser = argparse.ArgumentParser(description="Tables of a comparison with intervals over seeds, as markdown.")
    parser.add_argument("runs", type=Path, help="folder that `delineate compare` wrote")
    parser.add_argument("page", type=Path, nargs="?", help="page to write into; printed by default")
    parser.add_argument("--baseline", nargs="+", default=["CE"], help="losses the others are compared with")
    given = parser.parse_args(arguments)
    try:
        text = tables(read_results(given.runs), given.baseline)
        write_between_markers(given.page, text) if given.page else print(text)
    except (ValueError, OSError) as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
