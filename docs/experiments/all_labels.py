"""What labels could give at most: the runs of a recipe of few labels with the masks of all images, step for step.

    python docs/experiments/all_labels.py RECIPE OUT [--seeds 0 1 2]

The start, the number of steps and the settings are those of the recipe at its first share, for which every train image
is labelled. No method of few labels can be expected to do better. mIoU of the last epoch is printed.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import yaml

from delineate.data import open_source
from delineate.training.arms import open_data
from delineate.training.run import train_run
from delineate.training.settings import Settings


def train_with_all(recipe: Path, out: Path, seed: int) -> float:
    """mIoU of the last epoch."""
    options = yaml.safe_load(recipe.read_text(encoding="utf-8"))
    known = {key: value for key, value in options.items() if key in Settings.__dataclass_fields__}
    plain = {key: tuple(value) if isinstance(value, list) else value for key, value in known.items()}
    settings = Settings(**plain | {"semi": "supervised", "labeled": options["labeled"][0]})
    few, whole = open_data(options["data"], settings), open_source(options["data"])
    source = replace(few, splits={**few.splits, "train": whole.items("train")})
    folder = out / f"seed{seed}"
    folder.mkdir(parents=True)
    shown = [source.items("val")[0].id]
    return train_run(source, options["losses"][0], seed, settings, folder, samples=shown)["val"]["miou"]


def main(arguments: list[str] | None = None) -> None:
    """Train, and print the scores."""
    parser = argparse.ArgumentParser(description="The runs of a recipe of few labels, with all labels.")
    parser.add_argument("recipe", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    given = parser.parse_args(arguments)
    for seed in given.seeds:
        print(f"seed {seed}: mIoU {train_with_all(given.recipe, given.out, seed):.3f}", flush=True)


if __name__ == "__main__":
    main()
