"""Tables of a comparison of losses by instance, scored case by case, as markdown.

    python docs/experiments/instance_tables.py RUNS [PAGE] [--baseline DiceCE] [--about "simulated images"]

RUNS is the folder that `delineate compare` wrote for data of two classes, background and one other. Every finished run
is scored on the val split into its folder `instances-val`, unless that is there already. The tables are printed, or
written into PAGE between its two lines `<!-- table NAME -->`, where NAME is that of the data set.
"""

import argparse
import csv
import json
import math
import os
import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import stdev

from comparison_tables import LEVEL, Estimate, holm, setting

from delineate.evaluation import PairedDifference, paired_difference
from delineate.metrics.conventions import in_words_of
from delineate.metrics.lesions import recall_by_size
from delineate.report import Comparison, Run, read_results
from delineate.training.evaluate import evaluate_run

FOLDER, LESIONS = "instances-val", "lesions.csv"
SMALL = "small_recall"
SCORES = {
    "lesion_f1": ("lesion F1", 3),
    "lesion_sensitivity": ("recall of lesions", 3),
    SMALL: ("recall of small lesions", 3),
    "lesion_precision": ("precision of lesions", 3),
    "false_positives": ("false positives per case", 1),
    "dice": ("Dice", 3),
    "pq": ("PQ", 3),
}
"""Title and digits by key of per_case.csv; recall of small lesions comes from lesions.csv."""
STATED = r"(Lesion|Object)s are |An? (lesion|object) is found|(Lesion|Object) F1|PQ = "
"""How the sentences begin that the tables need of the conventions of the evaluation."""
SCORED = (
    "Mean over cases, then over seeds; ± is half the {level:g} % t interval over seeds. Small lesions are the smallest "
    "quarter of all true lesions of the val split: up to {bound:g}, {small} of {all}, in {cases} of {n} cases."
)
BY_SIZE = (
    "Recall by size, the lesions of all cases together, in quarters of their number; ± as above. In brackets how many "
    "lesions a quarter holds."
)
PAIRED = (
    "Loss minus `{baseline}`. Over cases: each of the {n} cases is averaged over seeds first; {level:g} % bootstrap "
    "interval of the mean difference and p of the Wilcoxon test. Over seeds: standard deviation (sd) of the "
    "difference, its mean with the {level:g} % t interval, and p of the paired t test. Both p after Holm's correction "
    "over the losses of a score, not over the scores. The verdict is above or below where both intervals "
    "leave 0 out; where only that over cases does, it says so."
)


@dataclass(frozen=True)
class Cases:
    """A run on the val split.

    Args:
        loss, seed: of the run.
        values: scores by case and key of per_case.csv, None where undefined.
        lesions: by case, the size of each true lesion and whether it was found.
        conventions: what the scores mean, sentence by sentence.
    """

    loss: str
    seed: int
    values: dict[str, dict[str, float | None]]
    lesions: dict[str, list[tuple[float, bool]]]
    conventions: list[str]

    @cached_property
    def bound(self) -> float:
        """Largest size of a small lesion: the first quartile."""
        return recall_by_size(self.lesions.values())[0].high

    @property
    def stated(self) -> list[str]:
        """The conventions of the scores that are shown."""
        return [line for line in self.conventions if re.match(STATED, line)]

    def score(self, key: str) -> dict[str, float | None]:
        """One score of every case."""
        if key != SMALL:
            return {case: values[key] for case, values in self.values.items()}
        small = {case: [found for size, found in of if size <= self.bound] for case, of in self.lesions.items()}
        return {case: _mean(map(float, small.get(case, []))) for case in self.values}


def score_runs(found: Comparison) -> list[Cases]:
    """Every finished run case by case; those that were not yet are scored now, which is announced line by line.

    Raises:
        ValueError: for data of more classes, no finished run, and runs that were scored on different lesions or by
            different conventions.
    """
    if len(found.data.classes) != 2:
        raise ValueError(
            f"{found.folder}: expected background and one class; got {', '.join(found.data.classes)}. Compare losses "
            "on data of two classes."
        )
    finished = [run for run in found.runs if run.status == "finished"]
    for place, run in enumerate(finished, start=1):
        if not (run.folder / FOLDER / LESIONS).is_file():
            print(f"scoring run {place} of {len(finished)}: {run.name}", file=sys.stderr, flush=True)
            _evaluate(run.folder)
    runs = [_read(run) for run in finished]
    if not runs:
        raise ValueError(f"{found.folder}: expected a finished run; found none. Wait, or resume the comparison.")
    alike = {json.dumps([run.conventions, _sizes(run)]) for run in runs}
    if len(alike) > 1:
        raise ValueError(
            f"{found.folder}: expected runs scored on the same lesions by the same conventions; got others. Remove "
            f"every {FOLDER} in it."
        )
    if not runs[0].lesions:
        raise ValueError(f"{found.data.root}: expected a lesion in the val split; found none. Choose other data.")
    return runs


def scores_table(runs: list[Cases], losses: list[str], seeds: int) -> list[str]:
    """Every score of every loss: the mean over cases of each run, then over seeds."""
    lines = _head(["score", *(f"`{loss}`" for loss in losses)])
    for key, (title, digits) in SCORES.items():
        means = [[_mean(run.score(key).values()) for run in runs if run.loss == loss] for loss in losses]
        lines.append(_row(title, *(_text(Estimate.of(values), digits, seeds) for values in means)))
    return lines


def recall_table(runs: list[Cases], losses: list[str], seeds: int) -> list[str]:
    """Recall of every loss by quartile of size, over the lesions of all cases together."""
    lines, bins = _head(["size", *(f"`{loss}`" for loss in losses)]), {}
    for run in runs:
        bins.setdefault(run.loss, []).append(recall_by_size(run.lesions.values()))
    for place, size in enumerate(bins[runs[0].loss][0]):
        recalls = [[of[place].recall for of in bins[loss]] for loss in losses]
        title = f"{'from' if place == 0 else 'above'} {size.low:g} to {size.high:g} ({size.lesions})"
        lines.append(_row(title, *(_text(Estimate.of(values), 3, seeds) for values in recalls)))
    return lines


@dataclass(frozen=True)
class Difference:
    """A score of a loss minus that of the baseline.

    Args:
        loss: its expression.
        cases: over cases, each averaged over seeds first.
        by_seed: of each seed that both have, the mean over cases.
    """

    loss: str
    cases: PairedDifference
    by_seed: list[float]

    @classmethod
    def of(cls, runs: list[Cases], key: str, loss: str, baseline: str) -> "Difference | None":
        """None where no seed has both, or no case a number on both sides."""
        sides = [{run.seed: run.score(key) for run in runs if run.loss == name} for name in (loss, baseline)]
        common = [seed for seed in sides[0] if seed in sides[1]]
        pairs = [[_minus(sides[0][seed][case], sides[1][seed][case]) for case in sides[0][seed]] for seed in common]
        by_case = [_mean(values) for values in zip(*pairs, strict=True)]
        by_seed = [mean for values in pairs if (mean := _mean(values)) is not None]
        return cls(loss, paired_difference(by_case, [0.0] * len(by_case)), by_seed) if by_seed else None

    @property
    def over_seeds(self) -> Estimate:
        """The mean over seeds with its t interval and p."""
        found = Estimate.of(self.by_seed)
        assert found is not None
        return found

    @property
    def verdict(self) -> str:
        """What may be said of it: nothing where the interval over cases contains 0."""
        interval, seeds = self.cases.interval, self.over_seeds
        if interval is None or interval[0] <= 0 <= interval[1]:
            return "no difference shown"
        side = "above" if self.cases.mean > 0 else "below"
        if seeds.half is None or abs(seeds.mean) <= seeds.half:
            return f"{side} over cases, not shown over seeds"
        return side


def differences_table(runs: list[Cases], losses: list[str], baseline: str) -> list[str]:
    """One line for every score and every loss but the baseline."""
    lines = _head(["score", "loss", "over cases", "p", "sd over seeds", "over seeds", "p", "verdict"])
    for key, (title, digits) in SCORES.items():
        found = [Difference.of(runs, key, loss, baseline) for loss in losses if loss != baseline]
        known = [difference for difference in found if difference is not None]
        corrected = holm([one.cases.p for one in known]), holm([one.over_seeds.p for one in known])
        for one, *ps in zip(known, *corrected, strict=True):
            lines.append(_row(title, f"`{one.loss}`", *_cells(one, ps, digits), one.verdict))
    return lines


def tables(found: Comparison, baseline: str, about: str) -> str:
    """All of it as markdown; `about` is said above each table. In 2D lesions are called objects."""
    if baseline not in found.losses:
        raise ValueError(f"--baseline {baseline}: expected one of {', '.join(map(repr, found.losses))}.")
    runs, seeds = score_runs(found), len(found.seeds)
    losses = [loss for loss in found.losses if any(run.loss == loss for run in runs)]
    one, data = runs[0], found.data.name + (f" ({about})" if about else "")
    parts = [(_scored(one), scores_table(runs, losses, seeds)), (BY_SIZE, recall_table(runs, losses, seeds))]
    if baseline in losses and len(losses) > 1:
        said = PAIRED.format(level=100 * LEVEL, baseline=baseline, n=len(one.values))
        parts.append((said, differences_table(runs, losses, baseline)))
    dims = len(found.budget["crop"])
    written = [f"{data}. {in_words_of(dims, said)}\n\n" + in_words_of(dims, "\n".join(lines)) for said, lines in parts]
    return "\n\n".join([setting(found), "\n".join(f"- {line}" for line in one.stated), *written])


def _scored(run: Cases) -> str:
    """What is above the scores: how many lesions are small."""
    sizes = [size for of in run.lesions.values() for size, _ in of]
    small = sum(size <= run.bound for size in sizes)
    cases = sum(value is not None for value in run.score(SMALL).values())
    level, n = 100 * LEVEL, len(run.values)
    return SCORED.format(level=level, bound=run.bound, small=small, all=len(sizes), cases=cases, n=n)


def write_between_markers(page: Path, name: str, text: str) -> None:
    """Replace what stands between the two lines `<!-- table NAME -->` of the page."""
    marker = f"<!-- table {name} -->"
    parts = page.read_text(encoding="utf-8").split(marker)
    if len(parts) != 3:
        raise ValueError(f"{page}: expected {marker} twice, found it {len(parts) - 1} times.")
    page.write_text(f"{parts[0]}{marker}\n\n{text}\n\n{marker}{parts[2]}", encoding="utf-8")


def _evaluate(folder: Path) -> None:
    """Score a run into its `FOLDER`; the file of lesions is written last, so it stands for a complete evaluation."""
    _, evaluation, out = evaluate_run(folder, None, "val", lambda done, total: None, worst=0, out=folder / FOLDER)
    part = out / f".part-{LESIONS}"
    with part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["case", "size", "found"])
        for case in evaluation.cases:
            [scores] = case.scores.values()
            writer.writerows([case.id, size, int(found)] for size, found in scores.lesions)
    os.replace(part, out / LESIONS)


def _read(run: Run) -> Cases:
    folder, lesions = run.folder / FOLDER, {}
    values = {
        row["case"]: {key: float(row[key]) if row[key] else None for key in SCORES if key != SMALL}
        for row in _rows(folder / "per_case.csv")
    }
    for row in _rows(folder / LESIONS):
        lesions.setdefault(row["case"], []).append((float(row["size"]), row["found"] == "1"))
    said = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))["cases"]["conventions"]
    return Cases(run.loss, run.seed, values, lesions, said)


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _sizes(run: Cases) -> dict[str, list[float]]:
    return {case: [size for size, _ in of] for case, of in run.lesions.items()}


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return math.fsum(known) / len(known) if known else None


def _minus(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else a - b


def _cells(one: Difference, ps: list[float | None], digits: int) -> list[str]:
    """Over cases, p, sd, over seeds, p."""
    interval, seeds = one.cases.interval, one.over_seeds
    ends = "-" if interval is None else f"{interval[0]:+.{digits}f}, {interval[1]:+.{digits}f}"
    spread = f"{stdev(one.by_seed):.{digits}f}" if len(one.by_seed) > 1 else "-"
    return [
        f"{one.cases.mean:+.{digits}f} [{ends}]",
        _p(ps[0]),
        spread,
        seeds.text(digits, len(one.by_seed), "+"),
        _p(ps[1]),
    ]


def _text(found: Estimate | None, digits: int, seeds: int) -> str:
    return found.text(digits, seeds) if found else "-"


def _p(p: float | None) -> str:
    return "-" if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}"


def _head(titles: list[str]) -> list[str]:
    return [_row(*titles), "|" + "---|" * len(titles)]


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def main(arguments: list[str] | None = None) -> None:
    """The command line; a wrong folder, page or baseline ends in one line and exit code 2."""
    parser = argparse.ArgumentParser(description="Tables of a comparison of losses by instance, as markdown.")
    parser.add_argument("runs", type=Path, help="folder that `delineate compare` wrote")
    parser.add_argument("page", type=Path, nargs="?", help="page to write into; printed by default")
    parser.add_argument("--baseline", default="DiceCE", help="loss the others are compared with")
    parser.add_argument("--about", default="", help="what is said of the data above each table")
    given = parser.parse_args(arguments)
    try:
        found = read_results(given.runs)
        text = tables(found, given.baseline, given.about)
        write_between_markers(given.page, found.data.name, text) if given.page else print(text)
    except (ValueError, OSError) as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
