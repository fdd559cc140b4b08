"""What the scores of many cases say together: means with intervals, medians, pooled lesions, recall by size."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from delineate.evaluation.bootstrap import bootstrap_interval
from delineate.evaluation.cases import ScoredCase
from delineate.metrics import ClassScores, in_words_of, recall_by_size

STATISTICS = (
    "Every case counts the same: values are means and medians over cases, in brackets the 95 % interval of the mean by "
    "bootstrap over cases (2000 draws, seed 0; BCa below 50 cases, percentiles from there on).",
    "n is the number of cases where a value is defined; a case whose structure is missed entirely is among them.",
    "A class that neither truth nor prediction of any case hold is named, without values.",
    "Recall by size and pooled counts take the lesions of all cases together, so cases with many lesions count more.",
)
"""How the numbers of a summary come about, sentence by sentence."""

Summary = dict[str, Any]


def statistics_sentences(dims: int) -> list[str]:
    """`STATISTICS` in the words of pictures or of volumes."""
    return [in_words_of(dims, sentence) for sentence in STATISTICS]


def summarise(cases: Sequence[ScoredCase]) -> dict[str, Summary]:
    """The summary of each class, of plain numbers as `metrics.json` holds them.

    A class has `cases`, `cases_with_truth`, `one_empty` (cases where only one of truth and prediction is empty),
    `metrics`, `empty_truth` (the cases without truth apart), `pooled` and `recall_by_size`. A metric has `mean`,
    `interval`, `median`, `n`, and `mean_where_true` over the cases with truth; there are none where no case holds the
    class at all. Infinite values are the text "inf".
    """
    return {name: _summarise_class([case.scores[name] for case in cases]) for name in cases[0].scores}


def _summarise_class(scores: Sequence[ClassScores]) -> Summary:
    names = dict.fromkeys(name for one in scores for name in one.values)
    true, held = [one for one in scores if not one.truth_empty], not all(one.both_empty for one in scores)
    return {
        "cases": len(scores),
        "cases_with_truth": len(true),
        "one_empty": sum(one.truth_empty != one.prediction_empty for one in scores),
        "metrics": {name: _summarise_metric(name, scores, true) for name in names} if held else {},
        "empty_truth": _empty_truth([one for one in scores if one.truth_empty]),
        "pooled": _pooled(scores),
        "recall_by_size": [
            {"low": size.low, "high": size.high, "lesions": size.lesions, "found": size.found}
            | {"recall": _share(size.found, size.lesions)}
            for size in recall_by_size([one.lesions for one in scores])
        ],
    }


def _summarise_metric(name: str, scores: Sequence[ClassScores], true: Sequence[ClassScores]) -> Summary:
    values = [one.values.get(name) for one in scores]
    known = [value for value in values if value is not None]
    interval = bootstrap_interval(values)
    where_true = [value for one in true if (value := one.values.get(name)) is not None]
    return {
        "mean": _plain(np.mean(known)) if known else None,
        "interval": None if interval is None else [round(end, 6) for end in interval],
        "median": _plain(np.median(known)) if known else None,
        "n": len(known),
        "mean_where_true": _plain(np.mean(where_true)) if where_true else None,
    }


def _empty_truth(scores: Sequence[ClassScores]) -> Summary:
    """Cases without the class: how many are left empty, and what is predicted in the others."""
    clean = sum(one.prediction_empty for one in scores)
    return {
        "cases": len(scores),
        "left_empty": clean,
        "specificity": _share(clean, len(scores)),
        "false_positives": sum(len(one.false_positive_sizes) for one in scores),
        "false_positive_volume": round(float(sum(sum(one.false_positive_sizes) for one in scores)), 6),
    }


def _pooled(scores: Sequence[ClassScores]) -> Summary:
    """Lesions of all cases together, and PQ of all pairs together."""
    lesions, predicted, matched = (_total(scores, name) for name in ("lesions", "predicted_lesions", "matched"))
    found, false = _total(scores, "found"), _total(scores, "false_positives")
    sensitivity, precision = _share(found, lesions), _share(predicted - false, predicted) if predicted else 0.0
    ious = sum((one.values["sq"] or 0) * (one.values["matched"] or 0) for one in scores)
    sq, rq = _share(ious, matched), _share(matched, (predicted + lesions) / 2)
    return {
        "lesions": lesions,
        "found": found,
        "predicted_lesions": predicted,
        "false_positives": false,
        "false_positives_per_case": _share(false, len(scores)),
        "sensitivity": sensitivity,
        "precision": precision if predicted or lesions else None,
        "f1": _harmonic(sensitivity, precision),
        "matched": matched,
        "pq": None if rq is None else round((sq or 0) * rq, 6),
        "sq": sq,
        "rq": rq,
    }


def _total(scores: Sequence[ClassScores], name: str) -> int:
    return sum(int(one.values[name] or 0) for one in scores)


def _share(part: float, whole: float) -> float | None:
    return round(part / whole, 6) if whole else None


def _harmonic(sensitivity: float | None, precision: float | None) -> float | None:
    """F1; None without lesions, 0 where nothing is found or nothing is right."""
    if sensitivity is None or precision is None:
        return None
    return round(2 * sensitivity * precision / (sensitivity + precision), 6) if sensitivity + precision else 0.0


def _plain(value: Any) -> float | str:
    return round(float(value), 6) if np.isfinite(value) else "inf"
