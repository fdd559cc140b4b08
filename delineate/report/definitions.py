"""What every figure of a comparison means, as terms and texts."""

from __future__ import annotations

from .analysis import FEWEST_OBJECTS, MOST_PANELS, SIGNIFICANT, Analysis, analyse
from .intervals import size_unit
from .results import RARE_SHARE, Comparison

INDEPENDENT = (
    "Intervals and p take the validation cases as independent. Frames of one video or several scans of one patient are "
    "not: the intervals are then too narrow and p is too small. --groups tells what a case belongs to."
)


def definitions(comparison: Comparison) -> list[tuple[str, str]]:
    """Of the measures, of what is said of chance, and of what training costs; only those that the page shows."""
    found = analyse(comparison)
    if found is None:
        return [*_scores(comparison, None), *_costs(comparison)]
    return [*_scores(comparison, found), *_chance(comparison, found), *_sizes(comparison, found), *_costs(comparison)]


def _scores(comparison: Comparison, found: Analysis | None) -> list[tuple[str, str]]:
    element, word = comparison.data.element, comparison.data.object_word
    known = {measure.key: measure.title for measure in found.measures} if found else {}
    said = [
        ("IoU", f"{element}s both true and predicted over those that are either, of all validation cases together."),
        ("mIoU", "The mean of IoU over the classes that occur."),
    ]
    if "dice" in known:
        text = (
            "Twice the overlap over the sum of both sizes, for each case; mean over cases, then over the scored classes"
        )
        said.append((known["dice"], f"{text}. Where truth and prediction are both empty it is 1."))
    if "f1" in known:
        text = f"F1 of finding connected components, for each case: a true {word} is found, and a predicted one right"
        text += (
            f", where one {element} of the other's touches it. Mean over cases, then over the scored classes; 1 where"
        )
        said.append((known["f1"], f"{text} there are none on either side."))
    if comparison.data.rare:
        share = f"The mean IoU of the classes below {RARE_SHARE:g} % of the labelled training {element}s"
        said.append(("Rare IoU", f"{share}: {', '.join(comparison.data.rare)}."))
    return [(term, text[0].upper() + text[1:]) for term, text in said]


def _chance(comparison: Comparison, found: Analysis) -> list[tuple[str, str]]:
    several = max((len(comparison.of(loss)) for loss in found.ranked), default=0) > 1
    cases = "other cases" if comparison.groups is None else "other groups of cases"
    both = f"other seeds and {cases}" if several else f"{cases}; with one seed nothing is known of other seeds"
    said = [
        ("Interval", f"95 % t interval of the mean, for {both}. A score is taken apart by case with the jackknife.")
    ]
    if len(found.ranked) < 2:
        return [*said, _independent(comparison)]
    shown = (
        f"A difference is shown where p is below {SIGNIFICANT:g} and both losses were trained with two seeds or more"
    )
    return [
        *said,
        ("Difference", "In points, a hundredth of the scale, paired over the same cases and the same seeds."),
        (
            "p",
            "How likely a difference as large would be if the losses did not differ, two-sided, after Holm's "
            "correction: over all pairs of losses; class by class over all pairs and all classes but background. "
            f"{shown}.",
        ),
        (
            "Detectable difference",
            "The true difference that would be shown four times in five with as many seeds and cases, with p corrected "
            "for all pairs. No difference shown does not mean that there is none.",
        ),
        _independent(comparison),
    ]


def _independent(comparison: Comparison) -> tuple[str, str]:
    if comparison.groups is None:
        return "Independent cases", INDEPENDENT
    text = f"Intervals and p take groups of cases as independent, those in whose names “{comparison.groups}” finds the"
    return "Independent groups", f"{text} same part. The cases of a group count as one."


def _sizes(comparison: Comparison, found: Analysis) -> list[tuple[str, str]]:
    if not found.sizes:
        return []
    word, unit = comparison.data.object_word, size_unit(comparison)
    text = f"The true {word}s of a class in the quartiles of their size in {unit}, and the share of each that is found"
    panels = f"Shown are classes with {FEWEST_OBJECTS} {word}s or more, the {MOST_PANELS} with the most"
    return [("Size classes", f"{text}, of all cases together. {panels}.")]


def _costs(comparison: Comparison) -> list[tuple[str, str]]:
    step = "wall-clock time of a training step, with network, loss and optimizer, without loading data."
    turns = (
        f"The loss alone, plus the rest of a step, the median of all runs; so a loss is not charged for an hour in "
        f"which the machine was busy. A step is the {step}"
    )
    alone = "Median time of the loss by itself, forward and backward, on a batch as training saw it"
    said = [
        ("Time", turns if comparison.loss_ms else f"Median {step}"),
        ("Loss alone", f"{alone}, all losses in turns after the trainings." if comparison.loss_ms else f"{alone}."),
        ("Peak memory", "The most that one training step allocates beyond what was held before it."),
    ]
    if not comparison.single and any(run.gradient_norm for run in comparison.runs):
        text = (
            "Length of the gradient of all weights, the median over the first steps, as a multiple of the first loss's"
        )
        note = "Losses of other scales want other learning rates"
        said.append(("Gradient norm", f"{text}. {note}, the more so the less the optimizer adapts to it."))
    return said
