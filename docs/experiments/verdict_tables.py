"""Writes the verdict of comparisons, their scores and all pairs into a page: `verdict_tables.py FOLDER [--page P]`."""

import argparse
from pathlib import Path

from instance_tables import write_between_markers

from delineate.report import Analysis, Comparison, analyse, leaderboard, read_results, verdict


def text_of(found: Comparison) -> str:
    """Verdict, a table of the losses and one of the pairs."""
    analysis = analyse(found)
    if analysis is None:
        raise SystemExit(f"{found.folder}: expected a comparison whose runs hold cases.json; got none.")
    budget = ", ".join(f"{key} {found.budget[key]}" for key in ("epochs", "steps", "model", "batch_size", "lr"))
    said = " ".join(verdict(found))
    return "\n\n".join([f"> {said}", f"{len(found.seeds)} seeds; {budget}.", scores(found, analysis), pairs(analysis)])


def scores(found: Comparison, analysis: Analysis) -> str:
    """A row per loss, in order of rank."""
    titles = [measure.title for measure in analysis.measures]
    lines = ["| loss | " + " | ".join([*titles, "ms/step", "gradient norm"]) + " |", "|---" * (len(titles) + 3) + "|"]
    for row in leaderboard(found):
        cells = [_score(analysis, measure.key, row["loss"]) for measure in analysis.measures]
        costs = [f"{row['ms_per_step']:.0f}", f"{row['gradient_norm']:.2f}"]
        lines.append(f"| `{row['loss']}` | " + " | ".join([*cells, *costs]) + " |")
    return "\n".join(lines)


def pairs(analysis: Analysis) -> str:
    """A row per pair: the difference in points on each measure, bold where it is shown."""
    titles = [measure.title for measure in analysis.measures]
    lines = ["| difference in points | " + " | ".join(titles) + " |", "|---" * (len(titles) + 1) + "|"]
    for first in analysis.ranked:
        for second in analysis.ranked[analysis.ranked.index(first) + 1 :]:
            cells = [_pair(analysis, measure.key, first, second) for measure in analysis.measures]
            lines.append(f"| `{first}` - `{second}` | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _score(analysis: Analysis, key: str, loss: str) -> str:
    score = analysis.scores[key][loss]
    ends = score.interval
    return f"{score.mean:.3f}" + (f" [{max(ends[0], 0):.3f}, {min(ends[1], 1):.3f}]" if ends else "")


def _pair(analysis: Analysis, key: str, first: str, second: str) -> str:
    pair = analysis.pair(key, first, second)
    if pair is None or pair.difference.interval is None or pair.p is None:
        return "-"
    low, high = (100 * end for end in pair.difference.interval)
    text = f"{100 * pair.difference.mean:+.1f} [{low:.1f}, {high:.1f}], p = {pair.p:.3f}"
    return f"**{text}**" if pair.shown else text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--page", type=Path)
    given = parser.parse_args()
    for folder in given.folders:
        found = read_results(folder)
        if given.page:
            write_between_markers(given.page, found.data.name, text_of(found))
        else:
            print(text_of(found))


if __name__ == "__main__":
    main()
