"""The result of a comparison of losses in sentences, no stronger than the tests behind them."""

from __future__ import annotations

from .analysis import SIGNIFICANT, Analysis, Pair, analyse
from .few_labels import few_labels_verdict, grid
from .leaderboard import leaderboard
from .results import RARE_SHARE, Comparison

POINTS = 100
"""Scores are from 0 to 1, differences are told in points of 100."""
SAME_COST = 0.02
"""Share by which times of a step must differ to be told."""
NEAREST = 2
"""Losses behind the leader that are told one by one, beside the first named."""
UNITS = {"case": "cases", "group of cases": "groups of cases"}
NAMED = 4
"""Classes that a sentence names."""


def verdict(comparison: Comparison) -> list[str]:
    """The result in a sentence, then what qualifies it."""
    if comparison.single:
        return [_outcome(comparison)]
    if found := grid(comparison):
        return few_labels_verdict(found, comparison.data.name) + _gaps(comparison)
    found = analyse(comparison)
    if found is None:
        return _untested(comparison) + _gaps(comparison)
    if len(found.ranked) < 2:
        return [*_alone(comparison, found), *_gaps(comparison)]
    said = [_one_seed(comparison, found)] if _seeds(found) < 2 else _shown(comparison, found)
    return said + _unreached(comparison, found) + _gaps(comparison)


def points(pair: Pair) -> str:
    """The difference in points with its interval, as `+2.1 [1.4, 2.9]`."""
    mean, ends = pair.difference.mean, pair.difference.interval
    text = f"{POINTS * mean:+.1f}"
    return text if ends is None else f"{text} [{', '.join(f'{POINTS * end:.1f}' for end in ends)}]"


def better_classes(found: Analysis, first: str, second: str) -> tuple[list[str], list[str], int]:
    """Classes on which the first is shown to be better, those on which the second is, and how many were tested."""
    pairs = {key: found.pair(key, first, second) for key in found.class_pairs}
    known = {key.removeprefix("iou/"): pair for key, pair in pairs.items() if pair is not None}
    wins = [name for name, pair in known.items() if pair.shown and pair.difference.mean > 0]
    return wins, [name for name, pair in known.items() if pair.shown and pair.difference.mean < 0], len(known)


def _seeds(found: Analysis) -> int:
    return max(pair.difference.seeds for pairs in found.pairs.values() for pair in pairs)


def _pairs_of(found: Analysis, loss: str) -> list[Pair]:
    """The loss against every other one, in order of rank."""
    key = found.deciding.key
    pairs = [found.pair(key, loss, other) for other in found.ranked if other != loss]
    return [pair for pair in pairs if pair is not None]


def _shown(comparison: Comparison, found: Analysis) -> list[str]:
    """What several seeds show of the leader, of the classes, and of what could have been seen."""
    best = found.ranked[0]
    pairs = _pairs_of(found, best)
    beaten, open_ = [pair for pair in pairs if pair.shown], [pair for pair in pairs if _tested(pair) and not pair.shown]
    untested = [pair for pair in pairs if not _tested(pair)]
    if beaten:
        told = [pair for pair in beaten if pair.second == comparison.losses[0] or pair in beaten[:NEAREST]]
        said = [_beats(comparison, found, pair) for pair in told]
        if len(beaten) > 1 and not open_ and not untested:
            said.insert(0, f"{best} is better than every other loss on {comparison.data.name}.")
        elif len(beaten) > len(told):
            said.insert(
                0, f"{best} is better than {len(beaten)} of {len(pairs)} other losses on {comparison.data.name}."
            )
        said += [f"Between {best} and these no difference can be shown: {_listed(open_)}."] if open_ else []
    else:
        said = [*_nothing(comparison, found, open_), *_class_sentences(found)]
    said += [f"With one seed in common nothing is tested: {_listed(untested)} points."] if untested else []
    return [*said, _could(found, open_)]


def _tested(pair: Pair) -> bool:
    return pair.difference.seeds > 1


def _listed(pairs: list[Pair]) -> str:
    return "; ".join(f"{pair.second} ({points(pair)})" for pair in pairs)


def _beats(comparison: Comparison, found: Analysis, pair: Pair) -> str:
    wins, losses, tested = better_classes(found, pair.first, pair.second)
    cost = _cost(comparison, pair.first, pair.second)
    gain = f"{found.deciding.title} {points(pair)}"
    if not wins and tested > 1:
        also = f", though it loses on {_names(losses)}" if losses else ", though on no single class"
        return f"{pair.first} is better than {pair.second}{also}: {gain}{cost}."
    where = f" on {len(wins)} of {tested} classes" if tested > 1 else ""
    worse = f", loses on {_names(losses)}" if losses else ""
    return f"{pair.first} beats {pair.second}{where}{worse}, {gain}{cost}."


def _nothing(comparison: Comparison, found: Analysis, open_: list[Pair]) -> list[str]:
    """The leader is shown to be better than none; perhaps some are shown to be worse than another one."""
    every = [pair for pair in found.pairs[found.deciding.key] if pair.shown]
    place = f"{found.deciding.title} on {comparison.data.name}"
    if not open_:
        return [f"{found.ranked[0]} has the highest {place}, and too few seeds to be compared."]
    largest = max(open_, key=lambda pair: pair.difference.mean)
    lead = f"{largest.first} is ahead of {largest.second} by {points(largest)} points"
    if every:
        said = [f"The highest mean, {largest.first}'s, cannot be told from the others': {lead} in {place}."]
        return said + [f"Shown: {_beats(comparison, found, _turned(pair))}" for pair in every]
    alone = largest.difference.p is not None and largest.difference.p < SIGNIFICANT
    count = len(found.pairs[found.deciding.key])
    why = f"too little for the largest of {count} differences" if alone else "which chance alone may bring"
    said = [f"No difference can be shown between the losses in {place}: {lead}, {why}."]
    cheapest = _cheapest(comparison, found)
    return [*said, f"{cheapest} takes the least time a step."] if cheapest else said


def _turned(pair: Pair) -> Pair:
    if pair.difference.mean >= 0:
        return pair
    d = pair.difference
    return Pair(pair.second, pair.first, type(d)(-d.mean, d.error, d.freedom, d.seeds, d.cases), pair.p)


def _class_sentences(found: Analysis) -> list[str]:
    """Single classes on which two losses differ, where nothing is shown of the leader."""
    said = []
    for first in found.ranked:
        for second in (loss for loss in found.ranked if loss != first):
            wins, _, _ = better_classes(found, first, second)
            if wins:
                said.append(f"By class, {first} beats {second} on {_names(wins)}.")
    return said


def _could(found: Analysis, open_: list[Pair]) -> str:
    """What was tested, and what difference to the leader would have been seen where none was, after the correction."""
    pairs = [pair for pair in _pairs_of(found, found.ranked[0]) if _tested(pair)]
    if not pairs:
        return "Add seeds to those that have fewer."
    tests = len(found.pairs[found.deciding.key])
    sizes = [size for pair in open_ if (size := pair.difference.detectable(tests)) is not None]
    one = pairs[0].difference
    counts = f"{one.seeds} seeds and {one.cases} {found.unit if one.cases == 1 else UNITS[found.unit]}"
    if not sizes:
        return f"Tested on {counts}."
    return (
        f"With {counts} a true difference of {POINTS * max(sizes):.1f} points would have been shown four times in "
        "five, a smaller one less often."
    )


def _one_seed(comparison: Comparison, found: Analysis) -> str:
    best = found.ranked[0]
    pair = _pairs_of(found, best)[0]
    place = f"{found.deciding.title} on {comparison.data.name}, {found.scores[found.deciding.key][best].mean:.3f}"
    apart = pair.p is not None and pair.p < SIGNIFICANT
    over = "; the choice of images does not explain that, the choice of the seed may" if apart else ""
    return (
        f"No difference can be shown between the losses with one seed: {best} has the highest {place}, {points(pair)} "
        f"points from {pair.second}{over}. Add --seeds 3."
    )


def _alone(comparison: Comparison, found: Analysis) -> list[str]:
    name, place = comparison.data.name, found.deciding.title
    if not found.ranked:
        return [f"No loss was evaluated on {name}."]
    best = found.ranked[0]
    return [f"Only {best} was evaluated on {name}: {place} {found.scores[found.deciding.key][best].mean:.3f}."]


def _untested(comparison: Comparison) -> list[str]:
    """Of runs that hold no counts of their cases, or none at all."""
    ranked, name = [row for row in leaderboard(comparison) if row["rank"]], comparison.data.name
    if not ranked:
        return [f"No loss was evaluated on {name}."]
    best = ranked[0]
    return [
        f"{best['loss']} has the highest validation mIoU on {name}, {best['miou']:.3f}; these runs hold no counts by "
        "case, so nothing is said of chance. Train them again to have differences tested."
    ]


def _unreached(comparison: Comparison, found: Analysis) -> list[str]:
    """Rare classes that no loss finds at all: a comparison of means hides them."""
    missed = [
        name
        for name in comparison.data.rare
        if (scores := found.scores[f"iou/{name}"]) and max(score.mean for score in scores.values()) < 0.005
    ]
    if not missed:
        return []
    return [
        f"Of the classes below {RARE_SHARE:g} % no loss finds {_names(missed)} (IoU 0.00): train longer before judging."
    ]


def _cost(comparison: Comparison, first: str, second: str) -> str:
    """What the first costs beside the second."""
    times = _times(comparison)
    if first not in times or second not in times:
        return ""
    apart = times[first] / times[second] - 1
    return ", at the same time per step" if abs(apart) < SAME_COST else f", {_change(apart)} per step"


def _change(apart: float) -> str:
    return f"costs {100 * apart:+.0f} %" if apart > 0 else f"saves {-100 * apart:.0f} %"


def _times(comparison: Comparison) -> dict[str, float]:
    """Milliseconds of a step by loss, where known."""
    found = {loss: comparison.step_ms(loss) for loss in comparison.losses}
    return {loss: time for loss, time in found.items() if time}


def _cheapest(comparison: Comparison, found: Analysis) -> str | None:
    times = {loss: time for loss, time in _times(comparison).items() if loss in found.ranked}
    return min(times, key=lambda loss: times[loss]) if times else None


def _names(names: list[str]) -> str:
    shown = names[:NAMED]
    rest = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return (", ".join(shown) if rest or len(shown) < 2 else f"{', '.join(shown[:-1])} and {shown[-1]}") + rest


def _gaps(comparison: Comparison) -> list[str]:
    """What is missing, a sentence each."""
    sentences, scored = [], comparison.scored()
    if unscored := [loss for loss in comparison.losses if scored and loss not in scored]:
        # names of arms hold commas
        sentences.append(f"Without a score: {('; ' if comparison.few_labels else ', ').join(unscored)}.")
    if comparison.status == "interrupted":
        planned = len(comparison.losses) * len(comparison.seeds)
        finished = sum(run.status == "finished" for run in comparison.runs)
        sentences.append(f"The comparison was interrupted: {finished} of {planned} runs finished.")
    return sentences


def _outcome(comparison: Comparison) -> str:
    run = comparison.runs[0]
    if run.val is None or run.val.miou is None:
        return f"This run was not evaluated ({run.status})."
    return f"{run.title} reaches a validation mIoU of {run.val.miou:.3f} on {comparison.data.name}."
