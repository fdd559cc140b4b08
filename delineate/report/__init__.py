"""One page that shows which loss is better, made from result files alone.

`write_report` turns the folder of a comparison, or of one run, into `report.html`; `leaderboard` gives its table as
rows of plain values, for a terminal or, by `write_leaderboard_csv`, a spreadsheet. `grid` and `write_few_labels_csv` do
that for methods of few labels by labelled share. `write_inspection_report` makes the page of `inspect`.
"""

from .analysis import Analysis, analyse
from .few_labels import Grid, grid, write_few_labels_csv
from .inspection import inspection_verdict, write_inspection_report
from .leaderboard import leaderboard, write_leaderboard_csv
from .page import write_report
from .results import Comparison, Data, Run, Scores, Spread, read_results
from .verdict import verdict

__all__ = [
    "Analysis",
    "Comparison",
    "Data",
    "Grid",
    "Run",
    "Scores",
    "Spread",
    "analyse",
    "grid",
    "inspection_verdict",
    "leaderboard",
    "read_results",
    "verdict",
    "write_few_labels_csv",
    "write_inspection_report",
    "write_leaderboard_csv",
    "write_report",
]
