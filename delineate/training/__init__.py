"""From a data set and an expression to a run folder: Lightning, models, comparisons."""
