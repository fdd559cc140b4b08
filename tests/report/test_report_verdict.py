"""What the verdict says, and that it says no more than the tests show."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from report_folders import CLASSES, counts, edit_json, write_cases, write_comparison, write_single

from delineate.report import Analysis, Comparison, analyse, read_results, verdict
from delineate.report.verdict import better_classes, points

NAME = "camvid <small> & co"
UNREACHED = "Of the classes below 2 % no loss finds bicyclist (IoU 0.00): train longer before judging."


def compared(folder: Path, levels: dict[str, float], seeds: int = 3, ms: dict[str, float] | None = None) -> Comparison:
    """A comparison of losses of these levels of IoU, and steps of these times, 100 ms where not told."""
    losses = list(levels)
    write_comparison(folder, losses, list(range(seeds)))
    for loss, level in levels.items():
        for seed in range(seeds):
            run = folder / loss.replace(" ", "").replace("*", "") / f"seed{seed}"
            write_cases(run, counts(CLASSES, level, np.random.default_rng([1, seed, losses.index(loss)])))
            cost = json.loads((run / "metrics.json").read_text())["cost"]
            edit_json(run / "metrics.json", cost=cost | {"ms_per_step": (ms or {}).get(loss, 100.0)})
    return read_results(folder)


def analysis(comparison: Comparison) -> Analysis:
    """The analysis, which there must be."""
    found = analyse(comparison)
    assert found is not None
    return found


def told(comparison: Comparison, first: str, second: str) -> str:
    """The difference of two losses as sentences have it."""
    pair = analysis(comparison).pair("miou", first, second)
    assert pair is not None
    return points(pair)


def test_a_winner_with_its_classes_and_its_cost(tmp_path: Path) -> None:
    comparison = compared(tmp_path, {"CE": 0.45, "Dice": 0.55}, ms={"CE": 100, "Dice": 107})
    wins, losses, tested = better_classes(analysis(comparison), "Dice", "CE")
    assert len(wins) > 2
    assert not losses
    sentences = verdict(comparison)
    where = f"on {len(wins)} of {tested} classes, mIoU {told(comparison, 'Dice', 'CE')}, costs +7 % per step."
    assert sentences[0] == f"Dice beats CE {where}"
    assert sentences[1] == "Tested on 3 seeds and 12 cases."
    assert sentences[2:] == [UNREACHED]


@pytest.mark.parametrize(
    ("ms", "cost"), [(101.0, ", at the same time per step."), (90.0, ", saves 10 % per step."), (None, "]" + ".")]
)
def test_the_cost_is_that_of_a_step(tmp_path: Path, ms: float | None, cost: str) -> None:
    comparison = compared(tmp_path, {"CE": 0.45, "Dice": 0.55}, seeds=2, ms={"Dice": ms} if ms else None)
    if ms is None:
        for path in tmp_path.glob("Dice/*/metrics.json"):
            edit_json(path, cost=json.loads(path.read_text())["cost"] | {"ms_per_step": None})
        comparison = read_results(tmp_path)
    assert verdict(comparison)[0].endswith(cost)


def test_classes_on_which_the_winner_loses_are_named(tmp_path: Path) -> None:
    compared(tmp_path, {"CE": 0.45, "Dice": 0.6})
    place = list(CLASSES).index("tree")
    for path in tmp_path.glob("Dice/*/cases.json"):
        cases = json.loads(path.read_text())["cases"]
        for case in cases:
            case["tp"][place] //= 3
        write_cases(path.parent, cases)
    assert ", loses on tree, mIoU +" in verdict(read_results(tmp_path))[0]


def test_every_other_loss_is_beaten(tmp_path: Path) -> None:
    comparison = compared(tmp_path, {"CE": 0.45, "Dice": 0.6, "Focal": 0.5})
    sentences = verdict(comparison)
    assert sentences[0] == f"Dice is better than every other loss on {NAME}."
    assert [sentence.split(" on ")[0] for sentence in sentences[1:3]] == ["Dice beats Focal", "Dice beats CE"]


def test_a_part_is_shown(tmp_path: Path) -> None:
    comparison = compared(tmp_path, {"CE": 0.45, "Dice": 0.55, "Focal": 0.55})
    best, second, _ = analysis(comparison).ranked
    sentences = verdict(comparison)
    assert sentences[0].startswith(f"{best} beats CE on ")
    rest = f"{second} ({told(comparison, best, second)})"
    assert sentences[1] == f"Between {best} and these no difference can be shown: {rest}."


def test_nothing_is_shown(tmp_path: Path) -> None:
    comparison = compared(tmp_path, {"CE": 0.5, "Dice": 0.5}, ms={"CE": 90})
    best, other = analysis(comparison).ranked
    sentences = verdict(comparison)
    ahead = f"{best} is ahead of {other} by {told(comparison, best, other)} points"
    first = f"No difference can be shown between the losses in mIoU on {NAME}: {ahead}, which chance alone may bring."
    assert sentences[:2] == [first, "CE takes the least time a step."]
    assert not any(word in " ".join(sentences) for word in ("beats", "better"))


def test_a_difference_is_shown_though_the_leader_is_not_apart_from_the_rest(tmp_path: Path) -> None:
    """The leader's own seeds scatter, so that only the second is told from the third."""
    compared(tmp_path, {"CE": 0.45, "Dice": 0.55, "Focal": 0.6})
    for seed, level in enumerate((0.3, 0.97, 0.8)):
        write_cases(tmp_path / "Focal" / f"seed{seed}", counts(CLASSES, level, np.random.default_rng(seed)))
    sentences = verdict(read_results(tmp_path))
    assert sentences[0].startswith("The highest mean, Focal's, cannot be told from the others': ")
    assert sentences[1].startswith("Shown: Dice beats CE on ")


def test_one_seed_shows_nothing(tmp_path: Path) -> None:
    comparison = compared(tmp_path, {"CE": 0.45, "Dice": 0.6}, seeds=1)
    first, *rest = verdict(comparison)
    assert first.startswith(
        "No difference can be shown between the losses with one seed: Dice has the highest mIoU on "
    )
    assert f"{told(comparison, 'Dice', 'CE')} points from CE; the choice of images does not explain that" in first
    assert first.endswith("Add --seeds 3.")
    assert rest == [UNREACHED]
    close = verdict(compared(tmp_path / "close", {"CE": 0.5, "Dice": 0.5}, seeds=1))[0]
    assert "does not explain" not in close


def test_seeds_that_are_not_the_same_are_left_out_of_the_pair(tmp_path: Path) -> None:
    folder = tmp_path
    compared(folder, {"CE": 0.45, "Dice": 0.55})
    runs = json.loads((folder / "compare.json").read_text())["runs"]
    edit_json(folder / "compare.json", runs=[run for run in runs if run != "Dice/seed2"], status="interrupted")
    comparison = read_results(folder)
    pair = analysis(comparison).pair("miou", "Dice", "CE")
    assert pair is not None
    assert pair.difference.seeds == 2
    sentences = verdict(comparison)
    assert "Tested on 2 seeds and 12 cases." in sentences
    assert sentences[-1] == "The comparison was interrupted: 5 of 6 runs finished."


def test_the_metric_decides(tmp_path: Path) -> None:
    compared(tmp_path, {"CE": 0.45, "Dice": 0.55})
    edit_json(tmp_path / "compare.json", metric="dice")
    assert ", Dice by case +" in verdict(read_results(tmp_path))[0]


def test_losses_without_a_score_are_named(tmp_path: Path) -> None:
    alone = write_comparison(tmp_path / "alone", ["CE", "Dice"], [0, 1], Dice="failed")
    score = analysis(read_results(alone)).scores["miou"]["CE"].mean
    expected = [f"Only CE was evaluated on {NAME}: mIoU {score:.3f}.", "Without a score: Dice."]
    assert verdict(read_results(alone)) == expected
    none = write_comparison(tmp_path / "none", ["CE", "Dice"], [0], CE="failed", Dice="failed")
    assert verdict(read_results(none)) == [f"No loss was evaluated on {NAME}."]


def test_runs_without_cases_are_not_tested(tmp_path: Path) -> None:
    comparison = compared(tmp_path, {"CE": 0.45, "Dice": 0.55})
    for path in tmp_path.glob("*/*/cases.json"):
        path.unlink()
    comparison = read_results(tmp_path)
    first = verdict(comparison)[0]
    assert first.startswith(f"Dice has the highest validation mIoU on {NAME}, ")
    assert first.endswith("Train them again to have differences tested.")
    assert "beats" not in first


def test_one_run_is_not_compared(tmp_path: Path) -> None:
    assert len(verdict(read_results(write_single(tmp_path / "a")))) == 1
    stopped = read_results(write_single(tmp_path / "b", "interrupted"))
    assert verdict(stopped) == ["This run was not evaluated (interrupted)."]


def test_names_are_kept_as_they_are(tmp_path: Path) -> None:
    levels: dict[str, Any] = {"{0} %s [red]": 0.45, "<b>x<b>": 0.55}
    first = verdict(compared(tmp_path, levels, seeds=2))[0]
    assert first.startswith("<b>x<b> ")
    assert "{0} %s [red]" in first
