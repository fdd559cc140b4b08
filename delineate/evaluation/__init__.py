"""Label maps scored against the truth, from files or from a run: per case, with intervals and pictures.

>>> from delineate.evaluation import bootstrap_interval
>>> [round(end, 2) for end in bootstrap_interval([0.7, 0.8, 0.9, 0.6, 0.85])]
[0.66, 0.85]
"""

from delineate.evaluation.bootstrap import PairedDifference, bootstrap_interval, paired_difference
from delineate.evaluation.cases import Case, ScoredCase, case_rows, score_case
from delineate.evaluation.counts import CaseCounts, Objects, count_case
from delineate.evaluation.evaluate import Evaluation, evaluate_cases, evaluate_pairs
from delineate.evaluation.files import results_folder, write_evaluation
from delineate.evaluation.labelling import Labelling, find_labelling, scored_labels, scored_of
from delineate.evaluation.measures import (
    METRICS,
    Measure,
    case_dice,
    class_iou,
    groups_of,
    measure_of,
    miou,
    object_f1,
    recall_of_sizes,
    size_bounds,
)
from delineate.evaluation.paired import Difference, estimate, holm, paired
from delineate.evaluation.pairs import Pair, check_grids, find_pairs, read_cases
from delineate.evaluation.pictures import Worst
from delineate.evaluation.summary import summarise
from delineate.evaluation.table import print_evaluation, print_whole

__all__ = [
    "METRICS",
    "Case",
    "CaseCounts",
    "Difference",
    "Evaluation",
    "Labelling",
    "Measure",
    "Objects",
    "Pair",
    "PairedDifference",
    "ScoredCase",
    "Worst",
    "bootstrap_interval",
    "case_dice",
    "case_rows",
    "check_grids",
    "class_iou",
    "count_case",
    "estimate",
    "evaluate_cases",
    "evaluate_pairs",
    "find_labelling",
    "find_pairs",
    "groups_of",
    "holm",
    "measure_of",
    "miou",
    "object_f1",
    "paired",
    "paired_difference",
    "print_evaluation",
    "print_whole",
    "read_cases",
    "recall_of_sizes",
    "results_folder",
    "score_case",
    "scored_labels",
    "scored_of",
    "size_bounds",
    "summarise",
    "write_evaluation",
]
