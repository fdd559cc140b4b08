"""Intervals over cases: against scipy, against the truth they should cover, and where there is none."""

import numpy as np
import pytest
from scipy.stats import bootstrap, wilcoxon

from delineate.evaluation import bootstrap_interval, paired_difference


@pytest.mark.parametrize(("n", "method"), [(20, "BCa"), (60, "percentile")])
def test_the_interval_is_that_of_scipy(n, method):
    values = np.random.default_rng(1).exponential(size=n)
    expected = bootstrap(
        (values,), np.mean, n_resamples=20_000, method=method, random_state=np.random.default_rng(0)
    ).confidence_interval
    assert bootstrap_interval(values.tolist(), draws=20_000) == pytest.approx(tuple(expected), rel=0.02)


def test_few_skewed_cases_are_corrected():
    values = np.random.default_rng(1).exponential(size=20)
    means = np.random.default_rng(5).choice(values, (20_000, 20)).mean(1)
    low, high = bootstrap_interval(values.tolist(), draws=20_000)
    plain_low, plain_high = np.quantile(means, (0.025, 0.975))
    assert low > plain_low + 0.02  # BCa moves both ends towards the long tail
    assert high > plain_high + 0.05


def test_nine_to_ten_in_ten_intervals_hold_the_true_mean():
    draws = np.random.default_rng(0).beta(4, 2, size=(300, 30))
    intervals = [bootstrap_interval(values.tolist(), draws=400) for values in draws]
    held = np.mean([low <= 4 / 6 <= high for low, high in intervals])
    assert 0.90 <= held <= 0.98


def test_the_draws_are_fixed_and_their_number_too():
    values = [0.1, 0.5, 0.9, 0.4]
    assert bootstrap_interval(values) == bootstrap_interval(values)
    assert bootstrap_interval(values, seed=1) != bootstrap_interval(values)
    assert bootstrap_interval([*values, None]) == bootstrap_interval(values)


def test_no_interval_of_less_than_two_or_of_infinite_values():
    assert bootstrap_interval([]) is None
    assert bootstrap_interval([0.5, None]) is None
    assert bootstrap_interval([0.5, 0.7, float("inf")]) is None
    assert bootstrap_interval([0.0, 0.0]) == (0.0, 0.0)
    low, high = bootstrap_interval([0.2, 0.8])
    assert 0.2 <= low < high <= 0.8


def test_a_paired_difference_is_much_narrower_than_the_spread_of_cases():
    generator = np.random.default_rng(3)
    b = generator.uniform(size=25)
    a = b + 0.05 + generator.normal(0, 0.02, 25)
    found = paired_difference([*a, 0.5], [*b, None])
    assert found.n == 25
    assert found.mean == pytest.approx((a - b).mean())
    assert found.interval is not None
    assert 0.03 < found.interval[0] < 0.05 < found.interval[1] < 0.07
    assert found.p == pytest.approx(wilcoxon(a - b).pvalue)
    assert found.p < 0.001


def test_paired_difference_of_equal_and_of_unpaired_cases():
    same = paired_difference([0.5, 0.7], [0.5, 0.7])
    assert (same.mean, same.interval, same.p, same.n) == (0.0, (0.0, 0.0), 1.0, 2)
    with pytest.raises(ValueError, match="b: expected 2 values"):
        paired_difference([1.0, 2.0], [1.0])
    with pytest.raises(ValueError, match="got none"):
        paired_difference([None], [1.0])
