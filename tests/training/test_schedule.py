import pytest

from delineate.training.optimizer import factors
from delineate.training.settings import SCHEDULES, Settings


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_rises_then_falls_to_the_end(schedule):
    factor = factors(schedule, 100, 0.05)
    values = [factor(step) for step in range(101)]
    assert values[0] == pytest.approx(0.2)  # five steps of warm-up
    assert max(values) <= 1
    assert values[5:] == sorted(values[5:], reverse=True)
    assert values[100] == (1.0 if schedule == "constant" else pytest.approx(0.0, abs=1e-6))
    assert values[50] == pytest.approx({"poly": 0.5**0.9, "cosine": 0.5, "constant": 1.0}[schedule], abs=1e-6)


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"epochs": 0}, "--epochs"),
        ({"workers": -1}, "--workers"),
        ({"lr": float("nan")}, "--lr"),
        ({"schedule": "linear"}, "cosine"),
        ({"precision": "8"}, "--precision"),
        ({"crop": (30, 64)}, "multiples of 32"),
    ],
)
def test_bad_settings(options, word):
    with pytest.raises(ValueError, match=word):
        Settings(**options)
