"""How often the test of `delineate compare` tells equal losses apart: `python docs/experiments/false_alarms.py`.

Scores of two equal losses are drawn as case + seed + chance, for several numbers of seeds and cases and several shares
of the variance that seeds have; of 5000 such tables, the percentage with p < 0.05 is printed. 5 is right, more is
too bold, less is too careful. The same for cases alone, seeds averaged, and for seeds alone, cases averaged.
"""

import numpy as np
from scipy.special import stdtr
from scipy.stats import ttest_1samp

from delineate.evaluation.paired import variance

DRAWS = 5000
SETTINGS = [(2, 20), (3, 7), (3, 20), (3, 100), (5, 20), (5, 100)]
OF_SEED = {"no": 0.0, "a little": 0.05, "much": 1.0}
"""Variance between seeds; between cases, and of chance, it is 1."""


def tables(seeds: int, cases: int, of_seed: float, rng: np.random.Generator) -> np.ndarray:
    """(DRAWS, seeds, cases)."""
    by_seed = rng.normal(0, np.sqrt(of_seed), (DRAWS, seeds, 1))
    return by_seed + rng.normal(size=(DRAWS, 1, cases)) + rng.normal(size=(DRAWS, seeds, cases))


def percent(ps: np.ndarray) -> str:
    return f"{100 * (ps < 0.05).mean():.1f}"


def both(drawn: np.ndarray) -> np.ndarray:
    """p of the test of `delineate.evaluation.paired`."""
    found = [(table.mean(), *variance(table)) for table in drawn]
    return np.array([2 * stdtr(freedom, -abs(mean) / np.sqrt(of)) for mean, of, freedom in found])


def main() -> None:
    rng = np.random.default_rng(0)
    print(
        "| seeds | cases | seeds differ | both (ours) | over cases alone | over seeds alone |",
        "|---" * 6 + "|",
        sep="\n",
    )
    for seeds, cases in SETTINGS:
        for word, of_seed in OF_SEED.items():
            drawn = tables(seeds, cases, of_seed, rng)
            alone = (ttest_1samp(drawn.mean(1), 0, axis=1).pvalue, ttest_1samp(drawn.mean(2), 0, axis=1).pvalue)
            print(f"| {seeds} | {cases} | {word} | " + " | ".join(map(percent, (both(drawn), *alone))) + " |")


if __name__ == "__main__":
    main()
