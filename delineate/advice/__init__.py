"""From the figures of a data set to losses worth trying, each with the number that speaks for it.

`RULES` is all there is to it: a row measures one number of the data, and where that passes its threshold the loss of
the row is advised. To add advice is to add a row. The first advice is the baseline, `CE` or `Dice + CE`, which all
others must beat. They follow by strength: the weight of the evidence behind a rule (`EVIDENCE`), times one plus the
number of times its number doubles, or halves, beyond the threshold. So a rule that just fires counts as its evidence,
and weak evidence needs a strong number. Thresholds are judgement where they say so, and none was fitted to results: an
advice is a candidate for `delineate compare`, which decides.

Evidence is "practice" for a setting of well-known code of which no comparison is known here, "mixed" for published
gains that a replication or our own measurement has not seen, and "remark" for a caution, which does not say that its
loss is better.
"""

from delineate.advice.ranking import MOST, Advice, advise, auto_losses
from delineate.advice.rules import EVIDENCE, RULES, UNKNOWN, Rule

__all__ = ["EVIDENCE", "MOST", "RULES", "UNKNOWN", "Advice", "Rule", "advise", "auto_losses"]
