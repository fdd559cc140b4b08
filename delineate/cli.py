"""The command line: `delineate VERB ...`, each verb a plain function whose signature and docstring are its help."""

import json
import os
import re
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import takewhile
from pathlib import Path
from typing import Any, NoReturn

from jsonargparse import ArgumentParser, auto_cli
from rich.box import SIMPLE
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from delineate import __version__
from delineate.data import Source, Statistics, open_source, statistics
from delineate.evaluation import evaluate_pairs, evaluation_folder, print_evaluation, print_whole, write_evaluation
from delineate.metrics import Conventions
from delineate.report import leaderboard, read_results, verdict, write_leaderboard_csv, write_report
from delineate.training.compare import compare_losses, train_alone
from delineate.training.evaluate import evaluate_run
from delineate.training.predictor import predict_images, refuse_comparison
from delineate.training.run import Interrupted
from delineate.training.settings import Settings

DEFAULT_LOSSES = ["CE", "Dice + CE", "Focal", "Dice + TopK(k=0.1)"]


def inspect(data: str, split: str = "train") -> None:
    """Show what a data set holds: class shares, instance sizes, images without each class.

    Args:
        data: folder of the data set: a PASCAL VOC tree, images/ masks/ folders, or nnU-Net raw.
        split: which split to look at.
    """
    source = open_source(data)
    with _progress("reading masks") as update:
        found = statistics(source, split, progress=update)
    _print_statistics(source, found)


def train(
    data: str, loss: str = "Dice + CE", seed: int = 0, out: str | None = None, resume: bool = False, **settings: Any
) -> None:
    """Train one network and evaluate it on the val split.

    Args:
        data: folder of the data set.
        loss: expression such as "Dice + 0.5*TopK(k=0.1)".
        seed: of the weights, the batch order and the augmentation.
        out: run folder; a new one under runs/ by default.
        resume: continue the run in --out from its last complete epoch.
        settings: budget and recipe.
    """
    recipe = Settings(**settings)
    source = open_source(data, recipe.train_list, recipe.val_list)
    folder = _folder("train", source, out, resume)
    with _resumable("train", folder):
        train_alone(source, loss, seed, recipe, folder)
    _finish(folder)


def compare(
    data: str,
    losses: list[str] = DEFAULT_LOSSES,
    seeds: int = 1,
    out: str | None = None,
    resume: bool = False,
    **settings: Any,
) -> None:
    """Train one network per loss on the same batches from the same start, and report which loss is better.

    Args:
        data: folder of the data set.
        losses: expressions, each in quotes, as in --losses "CE" "Dice + CE" "Focal".
        seeds: trainings of each loss, with seeds 0, 1, ...
        out: folder of the comparison; a new one under runs/ by default.
        resume: continue the comparison in --out; finished runs are kept, losses and seeds may be added.
        settings: budget and recipe, the same for every loss.
    """
    recipe = Settings(**settings)
    source = open_source(data, recipe.train_list, recipe.val_list)
    folder = _folder("compare", source, out, resume)
    with _resumable("compare", folder):
        compare_losses(source, losses, seeds, recipe, folder, after_run=write_report)
    write_leaderboard_csv(read_results(folder), folder / "leaderboard.csv")
    _finish(folder)


def evaluate(
    run: str,
    truth: str | None = None,
    data: str | None = None,
    split: str | None = None,
    out: str | None = None,
    classes: list[str] | None = None,
    ignore_index: int | None = None,
    spacing: list[float] | None = None,
    worst: int = 3,
    **conventions: Any,
) -> None:
    """Score a run, or label maps against the true ones: evaluate RUN, or evaluate PREDICTIONS TRUTH.

    Args:
        run: folder of a run; or of predicted label maps, or one file, followed by the truth.
        truth: folder of true label maps of the same names, or one file; may follow without --truth.
        data: of a run: another data set with the same classes.
        split: of a run: which split to score; val by default.
        out: folder to write to; that of the run, or a new one under runs/ by default.
        classes: of label maps: names of the labels 0, 1, ...; dataset.json, classes.txt or the labels by default.
        ignore_index: of label maps: value of true voxels that take no part.
        spacing: of pictures: distance between pixels along rows and columns; 1 by default.
        worst: pictures to draw of each class, of the lowest Dice and of the lowest lesion F1.
        conventions: definitions of the scores.
    """
    chosen = Conventions(**conventions)
    if worst < 0:
        raise ValueError(f"--worst: expected 0 or more pictures; got {worst}. Give 0 to draw none.")
    if truth is None:
        _evaluate_run(run, data, split, out, (classes, ignore_index, spacing), chosen, worst)
        return
    for name, value in (("--data", data), ("--split", split)):
        if value is not None:
            raise ValueError(f"{name}: expected with a run alone, as in evaluate RUN; got {value} with label maps.")
    folder = evaluation_folder(Path(run).resolve().name.split(".")[0], out)
    with _progress("evaluating") as update:
        found = evaluate_pairs(
            Path(run), Path(truth), classes, ignore_index, spacing, conventions=chosen, worst=worst, progress=update
        )
    write_evaluation(folder, found, {"prediction": run, "truth": truth})
    print_evaluation(found, f"{run} against {truth}")
    print(f"written: {folder}/metrics.json, per_case.csv" + (", worst/" if len(found.worst) else ""))


def _evaluate_run(
    run: str,
    data: str | None,
    split: str | None,
    out: str | None,
    of_label_maps: tuple[Any, ...],
    conventions: Conventions,
    worst: int,
) -> None:
    for name, value in zip(("--classes", "--ignore_index", "--spacing"), of_label_maps, strict=True):
        if value is not None:
            raise ValueError(f"{name}: expected with label maps alone, as in evaluate PREDICTIONS TRUTH; got {value}.")
    refuse_comparison(Path(run))
    if not (Path(run) / "config.yaml").is_file():
        raise ValueError(
            f"{run}: expected a run of `delineate train` or `compare` with config.yaml; found none. To score label "
            "maps name the true ones too, as in evaluate PREDICTIONS TRUTH."
        )
    split, folder = split or "val", None if out is None else evaluation_folder(run, out)
    with _progress("evaluating") as update:
        found, cases, written = evaluate_run(Path(run), data, split, update, conventions, worst, folder)
    print_whole(found, f"{run} on {split}")
    print_evaluation(cases, f"{run} on {split}, case by case")
    print(f"written: {written}/metrics.json, per_image.csv, per_case.csv" + (", worst/" if len(cases.worst) else ""))


def predict(run: str, images: str, out: str = "predictions") -> None:
    """Write a label map for an image or every image of a folder: a palette PNG, or NIfTI with the affine of the volume.

    Args:
        run: folder of a run.
        images: a picture, CASE_0000.nii.gz (the first channel of a volume), or a folder of them.
        out: new or empty folder for the label maps; -o for short.
    """
    with _progress("predicting") as update:
        count = predict_images(Path(run), Path(images), Path(out), update)
    print(f"written: {count} label maps in {out}")


VERBS = {"inspect": inspect, "train": train, "compare": compare, "evaluate": evaluate, "predict": predict}
SEVERAL = ("--losses", "--crop", "--classes", "--spacing")
"""Options that are followed by several words."""


class _Parser(ArgumentParser):
    """Reports a wrong command line in one line, as every other bad input is reported."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        text, verb = " ".join(str(message).split()).rstrip("."), self.prog.replace("[options] ", "")
        print(f"delineate: error: {text}. See {verb} --help.", file=sys.stderr)
        raise SystemExit(2)


def main(arguments: list[str] | None = None) -> None:
    """Run a verb. Bad input ends in one line and exit code 2, Ctrl-C in 130, and a closed pipe silently in 1."""
    try:
        try:
            _run_verb(sys.argv[1:] if arguments is None else arguments)
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what is flushed on exit
        raise SystemExit(1) from None


def _run_verb(arguments: list[str]) -> None:
    try:
        auto_cli(
            VERBS,
            args=_name_truth(_join_lists(arguments)),
            parser_class=_Parser,
            prog="delineate",
            description="Segmentation losses on your own data: inspect, train, compare, evaluate, predict.",
            version=__version__,
            allow_abbrev=False,
        )
    except (ValueError, OSError) as error:
        if isinstance(error, BrokenPipeError) or not _is_ours(error):
            raise
        print(f"delineate: error: {_one_line(error)}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        print("delineate: stopped.", file=sys.stderr)
        raise SystemExit(130) from None


def _join_lists(arguments: list[str]) -> list[str]:
    """Turn `--losses "CE" "Dice"` into what the parser takes, `--losses '["CE", "Dice"]'`, and `-o` into `--out`.

    >>> _join_lists(["compare", "data", "--losses", "CE", "Dice + CE", "--crop", "64", "96", "-o", "x"])
    ['compare', 'data', '--losses', '["CE", "Dice + CE"]', '--crop', '[64, 96]', '--out', 'x']
    """
    joined, rest = [], ["--out" if word == "-o" else word for word in arguments]
    while rest:
        word = rest.pop(0)
        joined.append(word)
        words = list(takewhile(lambda word: not word.startswith("--"), rest)) if word in SEVERAL else []
        if words and not words[0].startswith("["):
            joined.append(json.dumps([_value(word) for word in words]))
            del rest[: len(words)]
    return joined


def _name_truth(arguments: list[str]) -> list[str]:
    """Turn `evaluate PREDICTIONS TRUTH` into what the parser takes, `evaluate PREDICTIONS --truth TRUTH`.

    >>> _name_truth(["evaluate", "--split", "val", "run"]), _name_truth(["evaluate", "a", "--out", "c", "b"])
    (['evaluate', '--split', 'val', 'run'], ['evaluate', 'a', '--out', 'c', '--truth', 'b'])
    """
    if arguments[:1] != ["evaluate"]:
        return arguments
    words, free = enumerate(arguments[1:], start=1), []
    for place, word in words:
        if not word.startswith("-"):
            free.append(place)
        elif "=" not in word:
            next(words, None)
    return arguments if len(free) != 2 else [*arguments[: free[1]], "--truth", *arguments[free[1] :]]


def _value(word: str) -> int | float | str:
    """A number where the word is one.

    >>> _value("64"), _value("1.5"), _value("CE")
    (64, 1.5, 'CE')
    """
    if word.isdigit():
        return int(word)
    return float(word) if re.fullmatch(r"\d*\.\d+", word) else word


def _is_ours(error: BaseException) -> bool:
    """Whether an error was raised by this package, on purpose, rather than deep inside a library."""
    frames = traceback.extract_tb(error.__traceback__)
    inside = str(Path(__file__).parent)
    return any(frame.filename.startswith(inside) for frame in frames[-1:]) or "delineate.data" in str(error)


def _one_line(error: BaseException) -> str:
    """The message; of an error in a loader's worker, which comes with its traceback, only the message."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0] if len(lines) == 1 else lines[-1].partition("Error: ")[2] or lines[-1]


def _folder(verb: str, source: Source, out: str | None, resume: bool) -> Path:
    """The folder to write to: as given, or a new one. Existing results are only continued, never overwritten."""
    if out is None:
        if resume:
            raise ValueError("--resume: name the folder to continue with --out.")
        base = Path("runs") / f"{verb}-{source.root.resolve().name}"
        number = 1
        while Path(f"{base}-{number}").exists():
            number += 1
        return Path(f"{base}-{number}")
    folder = Path(out)
    if folder.is_file():
        raise ValueError(f"--out {folder}: expected a folder; this is a file.")
    if folder.is_dir() and any(folder.iterdir()) and not resume:
        raise ValueError(f"--out {folder}: exists and is not empty. Choose a new folder, or add --resume true.")
    if resume and not (folder / "config.yaml").is_file():
        raise ValueError(f"--out {folder}: expected a {verb} folder to resume; it holds no config.yaml.")
    return folder


@contextmanager
def _resumable(verb: str, folder: Path) -> Iterator[None]:
    """On Ctrl-C, say how to go on."""
    try:
        yield
    except (Interrupted, KeyboardInterrupt):
        if not (folder / "config.yaml").is_file():
            raise KeyboardInterrupt from None
        print(
            f"\nStopped; the last complete epoch is kept. To go on:\n"
            f"  delineate {verb} --config {folder}/config.yaml --out {folder} --resume true",
            file=sys.stderr,
        )
        raise SystemExit(130) from None


def _finish(folder: Path) -> None:
    """The report, and the same table on the terminal. Exit code 2 where no run reached its end."""
    page = write_report(folder)
    found = read_results(folder)
    rows = leaderboard(found)
    names = ["loss", "mIoU", "Dice", "rare IoU", "ms/step", "loss ms", "peak MiB"]
    names += ["status"] if any(row["status"] != "finished" for row in rows) else []
    table = Table(box=SIMPLE, pad_edge=False, padding=(0, 1, 0, 0))
    for name in names:
        table.add_column(name, justify="left" if name in ("loss", "status") else "right", no_wrap=name != "loss")
    for row in rows:
        scores = [_number(row[key]) for key in ("miou", "mdice", "rare_iou")]
        costs = [_number(row[key], 1) for key in ("ms_per_step", "loss_ms", "peak_memory_mib")]
        table.add_row(*[row["loss"], *scores, *costs, row["status"]][: len(names)])
    Console().print(table)
    for sentence in verdict(found):
        print(sentence)
    for run in found.runs:
        if run.error:
            print(f"delineate: error: {run.loss}, seed {run.seed}: {run.error}", file=sys.stderr)
    print(f"report: {page}")
    if not found.scored():
        raise SystemExit(2)


def _print_statistics(source: Source, found: Statistics) -> None:
    sizes = dict.fromkeys("x".join(f"{side:g}" for side in found.image_sizes[key]) for key in ("min", "max"))
    held = ", ".join(f"{name} {len(items)}" for name, items in source.splits.items())
    print(f"{source.root}: {source.layout} layout, {source.dims}D, {len(source.classes)} classes; images: {held}")
    unit = "pixels" if source.dims == 2 else "voxels"
    apart = "" if source.dims == 2 else f" voxels of {'x'.join(f'{step:g}' for step in found.spacing)} mm (median)"
    of_sizes, void = f"{found.images} images of {' to '.join(sizes)}{apart}", f"void {found.void_share:.2f} %"
    print(f"split {found.split}: {of_sizes}; {void} of all {unit}")
    table = Table(box=SIMPLE, pad_edge=False, padding=(0, 1, 0, 0))
    for name in ("class", "share %", "absent", "instances", "per image", "smallest", "median", "largest"):
        table.add_column(name, justify="left" if name == "class" else "right", no_wrap=True)
    for row in found.classes:
        sizes = [f"{row.instance_sizes[key]:.0f}" for key in ("min", "50%", "max")] if row.instance_sizes else ["-"] * 3
        counts = [f"{row.share:.2f}", str(row.absent), str(row.instances), f"{row.instances_per_image['50%']:g}"]
        table.add_row(row.name, *counts, *sizes)
    Console().print(table)
    print(f"commonest to rarest class: {found.imbalance:.0f} : 1")
    print("absent: images without the class")
    print(f"instances: {found.connectivity}-connected components; per image: their median number; sizes in {unit}")
    for note in source.notes:
        print(f"note: {note}")


def _number(value: float | None, digits: int = 3) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


@contextmanager
def _progress(what: str) -> Iterator[Any]:
    """A bar on a terminal, silence in a pipe: yields update(done, total)."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda done, total: None
        return
    with Progress(console=console, transient=True) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


if __name__ == "__main__":
    main()
