"""Methods of few labels by labelled share: means over seeds, and paired differences to labelled images alone."""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from scipy.special import stdtrit

from .results import Comparison, FewLabels, Run, Spread
from .series import Series

LEVEL = 0.95  # of the intervals
BASELINE = re.compile(r"\s*supervised\s*(\(|$)", re.IGNORECASE)  # the method that trains on labelled images alone


@dataclass(frozen=True)
class Interval:
    """A mean over seeds; `half` is half the width of its 95 % t interval, None for one seed."""

    mean: float
    half: float | None
    count: int

    @classmethod
    def of(cls, values: Iterable[float]) -> Interval | None:
        """Of numbers that are independent; None of none.

        >>> Interval.of([0.5, 0.5]), Interval.of([0.25])
        (Interval(mean=0.5, half=0.0, count=2), Interval(mean=0.25, half=None, count=1))
        """
        known = list(values)
        if not known:
            return None
        count, mean = len(known), math.fsum(known) / len(known)
        if count == 1:
            return cls(mean, None, 1)
        deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in known) / (count - 1))
        return cls(mean, float(stdtrit(count - 1, (1 + LEVEL) / 2)) * deviation / math.sqrt(count), count)

    @property
    def ends(self) -> tuple[float, float] | None:
        """Low and high end; None for one seed."""
        return None if self.half is None else (self.mean - self.half, self.mean + self.half)

    @property
    def holds_zero(self) -> bool:
        """Whether 0 is inside."""
        return self.ends is not None and self.ends[0] <= 0 <= self.ends[1]


@dataclass(frozen=True)
class Outcome:
    """A method at a share: the mIoU of the last student by seed, and its difference to the baseline, seed by seed."""

    runs: list[Run]
    planned: int
    scores: dict[int, float]
    difference: Interval | None

    @property
    def miou(self) -> Interval | None:
        """Over the seeds that have a score."""
        return Interval.of(self.scores.values())

    @property
    def missing(self) -> str:
        """Which of the seeds have no score, in words; empty where none is missing."""
        if len(self.scores) == self.planned:
            return ""
        if self.scores:
            return f"{len(self.scores)} of {self.planned} seeds"
        return next((run.status for run in self.runs if run.status != "finished"), "not run")

    def network(self, name: str, number: str) -> Spread | None:
        """`last_miou`, `best_miou` or `best_epoch` of the "student" or the "teacher" over seeds."""
        return Spread.of(getattr(run.networks[name], number) for run in self.runs if name in run.networks)


@dataclass(frozen=True)
class Row:
    """A method (with the loss of its labelled term) at every share, as far as it was planned."""

    name: str
    method: str
    loss: str
    baseline: bool
    outcomes: dict[str, Outcome]


@dataclass(frozen=True)
class Grid:
    """Methods by share; the shares by number of labelled images, the fewest first."""

    plan: FewLabels
    shares: list[str]
    rows: list[Row]

    def label(self, share: str) -> str:
        """The share as it is written; of a list a short name, where that is not another's too."""
        short = [_short(other) for other in self.shares]
        return _short(share) if short.count(_short(share)) == 1 else share


def _short(share: str) -> str:
    """The name of a list, or of its folder.

    >>> _short("splits/1_8/labeled.txt"), _short("lists/mine.txt"), _short("1/8"), _short("0.125")
    ('1_8', 'mine', '1/8', '0.125')
    """
    path = PurePath(share.replace("\\", "/"))
    if not path.suffix or path.suffix[1:].isdigit():
        return share
    return path.parent.name if path.stem == "labeled" and path.parent.name else path.stem


Leader = tuple[str, str, Outcome]  # share, method, outcome


def grid(comparison: Comparison) -> Grid | None:
    """The methods by share of a comparison of few labels; None of any other.

    The baseline of a method is `supervised` with the same loss, share and seeds.
    """
    plan = comparison.few_labels
    if plan is None:
        return None
    kinds = list(dict.fromkeys((method, loss) for method, _, loss in plan.arms.values()))
    base = {loss: method for method, loss in reversed(kinds) if BASELINE.match(method)}
    several = len({loss for _, loss in kinds}) > 1
    rows = [
        Row(
            f"{method}, {loss}" if several else method,
            method,
            loss,
            base.get(loss) == method,
            _outcomes(comparison, plan, (method, loss), base.get(loss)),
        )
        for method, loss in kinds
    ]
    return Grid(plan, sorted(plan.shares, key=lambda share: plan.labelled[share]), rows)


def arm_series(comparison: Comparison) -> list[Series]:
    """How each loss of a comparison looks: of few labels the colour is that of the method, the marker of the share."""
    found = grid(comparison)
    if found is None:
        return [Series(index) for index in range(len(comparison.losses))]
    places = [found.plan.arms[name] for name in comparison.losses]
    kinds = [(row.method, row.loss) for row in found.rows]
    return [Series(kinds.index((method, loss)), found.shares.index(share)) for method, share, loss in places]


def _outcomes(comparison: Comparison, plan: FewLabels, kind: tuple[str, str], base: str | None) -> dict[str, Outcome]:
    """By share, those of one method and loss."""
    names = {place: name for name, place in plan.arms.items()}
    found = {}
    for share in plan.shares:
        method, loss = kind
        if (name := names.get((method, share, loss))) is None:
            continue
        scores = _scores(comparison, name)
        other = _scores(comparison, names.get((base, share, loss))) if base not in (None, method) else {}
        pairs = [scores[seed] - other[seed] for seed in scores if seed in other]
        found[share] = Outcome(comparison.of(name), len(comparison.seeds), scores, Interval.of(pairs))
    return found


def _scores(comparison: Comparison, name: str | None) -> dict[int, float]:
    """mIoU of the last student by seed, of the runs of an arm that have one."""
    runs = [] if name is None else comparison.of(name)
    return {run.seed: run.val.miou for run in runs if run.val and run.val.miou is not None}


def steps(found: Grid, share: str) -> Spread | None:
    """Steps of the evaluated trainings at this share."""
    runs = [run for row in found.rows if share in row.outcomes for run in row.outcomes[share].runs]
    return Spread.of(run.cost["steps"] for run in runs if run.val)


def few_labels_rows(found: Grid) -> list[dict[str, Any]]:
    """One row per method and share, as `few_labels.csv` holds them; None where unknown.

    Keys: method, loss, labeled, labelled_images, unlabelled_images, miou, half_interval, seeds, difference,
    difference_low, difference_high, pairs (seeds of the difference), teacher_last, student_best, teacher_best.
    """
    rows = []
    for row in found.rows:
        for share in (share for share in found.shares if share in row.outcomes):
            outcome = row.outcomes[share]
            miou, gain = outcome.miou, outcome.difference
            low, high = (gain and gain.ends) or (None, None)
            networks = {"teacher_last": ("teacher", "last_miou")}
            networks |= {f"{name}_best": (name, "best_miou") for name in ("student", "teacher")}
            spreads = {key: outcome.network(*what) for key, what in networks.items()}
            rows.append(
                {
                    "method": row.method,
                    "loss": row.loss,
                    "labeled": share,
                    "labelled_images": found.plan.labelled[share],
                    "unlabelled_images": found.plan.unlabelled[share],
                    "miou": miou and miou.mean,
                    "half_interval": miou and miou.half,
                    "seeds": len(outcome.scores),
                    "difference": gain and gain.mean,
                    "difference_low": low,
                    "difference_high": high,
                    "pairs": gain.count if gain else 0,
                    **{key: spread and spread.mean for key, spread in spreads.items()},
                }
            )
    return rows


def write_few_labels_csv(found: Grid, path: Path) -> Path:
    """Write `few_labels_rows` as CSV, unrounded; an unknown number is an empty cell."""
    rows = few_labels_rows(found)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def few_labels_verdict(found: Grid, data: str) -> list[str]:
    """The best method at each share against labelled images alone, in a sentence, then what qualifies it."""
    leaders = _leaders(found)
    if not leaders:
        return [f"No method was evaluated on {data}."]
    sentences = [_gains(leaders)]
    if any(outcome.difference for _, _, outcome in leaders):
        methods = sum(not row.baseline for row in found.rows)
        if methods > 1:
            sentences.append(f"At each share this is the method of {methods} with the highest {_choice(found)}.")
    elif all(row.baseline for row in found.rows):
        sentences.append("It was trained on labelled images alone; no method with unlabelled images was compared.")
    else:
        sentences.append("Nothing is said of labelled images alone, since `supervised` has no score beside it.")
    return sentences


def _choice(found: Grid) -> str:
    """What the leaders were chosen by, and what that means for their numbers."""
    outcomes = [outcome for row in found.rows for outcome in row.outcomes.values()]
    most = " among those with the most seeds" if any(outcome.missing for outcome in outcomes) else ""
    if all(len(outcome.scores) < 2 for outcome in outcomes):
        return f"mIoU{most}; with one seed that may be chance"
    return f"mean{most}; intervals do not allow for that choice"


def _leaders(found: Grid) -> list[Leader]:
    """Share, name and outcome of the method with the most seeds and the highest mean; the baseline only by itself."""
    rows = [row for row in found.rows if not row.baseline] or found.rows
    leaders = []
    for share in found.shares:
        scored = [(row.name, row.outcomes[share]) for row in rows if share in row.outcomes]
        ranked = [((miou.count, miou.mean), name, outcome) for name, outcome in scored if (miou := outcome.miou)]
        if ranked:
            _, name, outcome = max(ranked, key=lambda entry: entry[0])
            leaders.append((found.label(share), name, outcome))
    return leaders


def _gains(leaders: list[Leader]) -> str:
    """The leaders in one sentence: those that differ from the baseline, then those of which that cannot be said."""
    unclear = [leader for leader in leaders if leader[2].difference and leader[2].difference.holds_zero]
    told = [leader for leader in leaders if leader not in unclear]
    if not told:
        return f"No difference to labelled images alone can be shown: {_reached(unclear, ', ')}."
    clauses = [_reached(told, "; ")]
    if unclear:
        alike = len({name for _, name, _ in leaders}) == 1
        where = [share if alike else f"{share} ({name})" for share, name, _ in unclear]
        clauses.append(f"at {', '.join([*where[:-2], ' and '.join(where[-2:])])} no difference can be shown")
    single = [leader for leader in told if leader[2].difference and leader[2].difference.half is None]
    if single:
        clauses.append("one seed: no interval" if len(single) == len(leaders) else "without interval: one seed")
    return "; ".join(clauses) + "."


def _reached(leaders: list[Leader], joint: str) -> str:
    """The mIoU of each and, unless an interval holds 0, its gain; the first in full words, names once."""
    texts, before = [], ""
    for share, name, outcome in leaders:
        miou, gain = outcome.miou, outcome.difference
        assert miou is not None
        text = f"{miou.mean:.3f} mIoU at {share}" if not texts else f"{miou.mean:.3f} at {share}"
        text = text if name == before else f"{name} {'' if texts else 'reaches '}{text}"
        if gain and not gain.holds_zero:
            than = f" {'over' if gain.mean > 0 else 'against'} labelled images alone"
            text += f", {signed(gain)}{'' if ' labelled images ' in joint.join(texts) else than}"
        texts.append(text)
        before = name
    return joint.join(texts)


def signed(difference: Interval) -> str:
    """The difference with its sign and interval.

    >>> signed(Interval(0.05, 0.02, 3)), signed(Interval(-0.01, None, 1))
    ('+0.050 [+0.030, +0.070]', '-0.010')
    """
    ends = difference.ends
    return f"{difference.mean:+.3f}" + (f" [{ends[0]:+.3f}, {ends[1]:+.3f}]" if ends else "")
