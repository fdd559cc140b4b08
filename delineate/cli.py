"""The command line: `delineate VERB ...`, each verb a plain function whose signature and docstring are its help."""

import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, NoReturn

from jsonargparse import ArgumentParser, auto_cli
from rich.console import Console

from delineate import __version__, failures
from delineate.advice import advise, auto_losses
from delineate.arguments import join_lists, name_truth
from delineate.data import DataError, Source, statistics
from delineate.evaluation import evaluate_pairs, print_evaluation, print_whole, results_folder, write_evaluation
from delineate.inspection import inspect_data, print_inspection, write_inspection
from delineate.metrics import Conventions
from delineate.report import (
    grid,
    read_results,
    verdict,
    write_few_labels_csv,
    write_leaderboard_csv,
    write_report,
)
from delineate.terminal import few_labels_table, leaderboard_table, progress
from delineate.training.arms import arms_of, open_data
from delineate.training.compare import Terms, compare_arms, train_alone
from delineate.training.evaluate import evaluate_run
from delineate.training.export import export_run
from delineate.training.predictor import Weights, predict_images, refuse_comparison
from delineate.training.ranks import is_first
from delineate.training.run import Interrupted
from delineate.training.settings import Settings

LOSS, SEMI_LOSS, AUTO = "Dice + CE", "CE", "auto"
AUTO_FROM = 200
"""Training images that are looked at for losses to advise, at most."""
DEFAULT_LOSSES = ["CE", "Dice + CE", "Focal", "Dice + TopK(k=0.1)"]


def inspect(data: str, split: str = "train", limit: int | None = None, out: str | None = None) -> None:
    """Show what a data set holds, what is wrong with it, and which losses that speaks for.

    Writes inspect.json and report.html. The exit code is 2 where files or labels have errors, once all is written.

    Args:
        data: folder of the data set: a PASCAL VOC or Cityscapes tree, images/ masks/ folders, or nnU-Net raw.
        split: which split the figures and the advice are of; problems are looked for in all.
        limit: look at this many images of each split only, evenly spread.
        out: folder to write to; a new one under runs/ by default.
    """
    folder = results_folder("inspect", Path(data).resolve().name, out)
    found = inspect_data(data, split, limit)
    page = write_inspection(folder, found)
    print_inspection(found)
    print(f"report: {page}")
    if found.errors:
        raise SystemExit(2)


def train(
    data: str, loss: str | None = None, seed: int = 0, out: str | None = None, resume: bool = False, **settings: Any
) -> None:
    """Train one network and evaluate it on the val split.

    Args:
        data: folder of the data set.
        loss: expression such as "Dice + 0.5*TopK(k=0.1)"; "Dice + CE" by default, "CE" with --semi.
        seed: of the weights, the batch order and the augmentation.
        out: run folder; a new one under runs/ by default.
        resume: continue the run in --out from its last complete epoch.
        settings: budget and recipe.
    """
    recipe = Settings(**settings)
    source = open_data(data, recipe)
    folder = _folder("train", source, out, resume)
    _say_splits(recipe, source)
    with _resumable("train", folder):
        train_alone(source, loss or (SEMI_LOSS if recipe.semi else LOSS), seed, recipe, folder)
    if is_first():
        _finish(folder)


def compare(
    data: str,
    losses: list[str] | None = None,
    semi: list[str] | None = None,
    labeled: list[str] | None = None,
    seeds: int = 3,
    metric: str | None = None,
    groups: str | None = None,
    budget: str | None = None,
    lr_sweep: list[float] | None = None,
    sweep_epochs: int = 2,
    parallel: int | None = None,
    out: str | None = None,
    resume: bool = False,
    **settings: Any,
) -> None:
    """Train one network per loss, or method of few labels, from one start on the same batches; report which is better.

    Args:
        data: folder of the data set.
        losses: expressions, each in quotes, as in --losses "CE" "Dice + CE" "Focal"; auto stands for what `inspect`
            advises.
        semi: methods of few labels, as in --semi supervised fixmatch "dssn(agree_weight=0)"; needs --labeled.
        labeled: parts of train that have labels, as in --labeled 1/16 1/8, or lists.
        seeds: trainings of each loss, with seeds 0, 1, ...; with one no difference can be told from chance.
        metric: what decides: "miou" of the split, "dice" or "f1" by case; dice on nnU-Net data, else miou.
        groups: where val cases are not independent, a regular expression for the part of a name that tells what it
            belongs to, as in --groups "patient[0-9]+"; such cases count as one.
        budget: time for all trainings together, such as 30min or 2h, which then decides --epochs.
        lr_sweep: peak learning rates to choose from for each loss on a fifth of train, as in --lr_sweep 3e-4 1e-3.
        sweep_epochs: epochs of each training of that search.
        parallel: trainings at the same time; one per GPU by default, else 1.
        out: folder of the comparison; a new one under runs/ by default.
        resume: continue the comparison in --out; finished runs are kept, losses and seeds may be added.
        settings: budget and recipe, the same for every loss.
    """
    first: dict[str, Any] = {"semi": semi[0], "labeled": labeled[0]} if semi and labeled else {}
    recipe = Settings(**settings, **first)
    terms = Terms(seeds, metric, groups, tuple(lr_sweep or ()), sweep_epochs, budget, parallel)
    losses, advice = _losses(data, losses or ([SEMI_LOSS] if semi else DEFAULT_LOSSES), recipe)
    arms = arms_of(data, losses, recipe, semi, labeled)
    folder = _folder("compare", arms[0].source, out, resume)
    for source in dict.fromkeys(arm.source for arm in arms):
        _say_splits(recipe, source)
    options = {"losses": losses} | ({"semi": semi, "labeled": labeled} if semi else {})
    with _resumable("compare", folder):
        compare_arms(arms, terms, folder, options, advice=advice, after_run=write_report)
    write_leaderboard_csv(read_results(folder), folder / "leaderboard.csv")
    _finish(folder)


def _losses(data: str, losses: list[str], recipe: Settings) -> tuple[list[str], list[dict[str, Any]]]:
    """The losses with what the data advise in place of "auto", and that advice."""
    if AUTO not in losses:
        return losses, []
    with progress("reading masks") as update:
        found = statistics(open_data(data, recipe), "train", limit=AUTO_FROM, progress=update)
    named, place = [loss for loss in losses if loss != AUTO], losses.index(AUTO)
    chosen = [loss for loss in auto_losses(found) if loss not in named]
    advice = [asdict(one) for one in advise(found, data) if one.loss in chosen]
    print(f"{AUTO}: {', '.join(chosen)}")
    for one in advice:
        print(f"  {one['loss']}: {one['figure']}")
    return [*losses[:place], *chosen, *(loss for loss in losses[place:] if loss != AUTO)], advice


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
    checkpoint: str = "last",
    network: str = "student",
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
        checkpoint: of a run: "last", or of few labels "best" on val.
        network: of a run: "student", or "teacher" of few labels.
        conventions: definitions of the scores.
    """
    chosen = Conventions(**conventions)
    if worst < 0:
        raise ValueError(f"--worst: expected 0 or more pictures; got {worst}. Give 0 to draw none.")
    if truth is None:
        weights = Weights(checkpoint, network)
        _evaluate_run(run, data, split, out, (classes, ignore_index, spacing), chosen, worst, weights)
        return
    of_runs = {"--data": data, "--split": split, "--checkpoint": checkpoint, "--network": network}
    for name, value in of_runs.items():
        if value not in (None, "last", "student"):
            raise ValueError(f"{name}: expected with a run alone, as in evaluate RUN; got {value} with label maps.")
    folder = results_folder("evaluate", Path(run).resolve().name.split(".")[0], out)
    with progress("evaluating") as update:
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
    weights: Weights,
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
    split, folder = split or "val", None if out is None else results_folder("evaluate", run, out)
    with progress("evaluating") as update:
        found, cases, written = evaluate_run(Path(run), data, split, update, conventions, worst, folder, weights)
    print_whole(found, f"{run} on {split}")
    print_evaluation(cases, f"{run} on {split}, case by case")
    print(f"written: {written}/metrics.json, per_image.csv, per_case.csv" + (", worst/" if len(cases.worst) else ""))


def predict(
    run: str, images: str, out: str = "predictions", checkpoint: str = "last", network: str = "student"
) -> None:
    """Write a label map for an image or every image of a folder: a palette PNG, or NIfTI with the affine of the volume.

    Args:
        run: folder of a run.
        images: a picture, CASE_0000.nii.gz (the first channel of a volume), or a folder of them.
        out: new or empty folder for the label maps; -o for short.
        checkpoint: "last", or of few labels "best" on val.
        network: "student", or "teacher" of few labels.
    """
    with progress("predicting") as update:
        count = predict_images(Path(run), Path(images), Path(out), update, Weights(checkpoint, network))
    print(f"written: {count} label maps in {out}")


def export(run: str, out: str | None = None, checkpoint: str = "last", network: str = "student") -> None:
    """Write the network of a run as an ONNX file, checked with onnxruntime; its metadata says what its input must be.

    Args:
        run: folder of a run.
        out: new file; model.onnx in the run by default.
        checkpoint: "last", or of few labels "best" on val.
        network: "student", or "teacher" of few labels.
    """
    found = export_run(Path(run), Path(out) if out else None, Weights(checkpoint, network))
    print(f"image {found.image} -> logits {found.logits}; free sizes by name")
    print(f"onnxruntime and torch differ by {found.difference:.1e} of the largest logit")
    print(f"written: {found.path}")


VERBS = {
    "inspect": inspect,
    "train": train,
    "compare": compare,
    "evaluate": evaluate,
    "predict": predict,
    "export": export,
}


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
            args=name_truth(join_lists(arguments)),
            parser_class=_Parser,
            prog="delineate",
            description="Segmentation losses on your own data: inspect, train, compare, evaluate, predict, export.",
            version=__version__,
            allow_abbrev=False,
        )
    except (ValueError, OSError, RuntimeError, MemoryError) as error:
        said = failures.in_words(error)
        if said is None and (isinstance(error, BrokenPipeError | MemoryError) or not _is_ours(error)):
            raise
        print(f"delineate: error: {said or _one_line(error)}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        print("delineate: stopped.", file=sys.stderr)
        raise SystemExit(130) from None


def _is_ours(error: BaseException) -> bool:
    """Whether an error was raised by this package, on purpose, rather than deep inside a library."""
    frames = traceback.extract_tb(error.__traceback__)
    inside = str(Path(__file__).parent)
    raised_here = any(frame.filename.startswith(inside) for frame in frames[-1:])
    return raised_here or isinstance(error, DataError) or "delineate.data" in str(error)


def _one_line(error: BaseException) -> str:
    """The message; of an error in a loader's worker, which comes with its traceback, only the message."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0] if len(lines) == 1 else lines[-1].partition("Error: ")[2] or lines[-1]


def _say_splits(recipe: Settings, source: Source) -> None:
    """Of few labels, which images have labels and where that comes from; which images were left out."""
    if (recipe.semi or recipe.bad_images == "skip") and is_first():
        print(*source.notes, sep="\n")


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
    if not is_first():  # the first process has made it
        return folder
    if folder.is_dir() and any(folder.iterdir()) and not resume:
        raise ValueError(f"--out {folder}: exists and is not empty. Choose a new folder, or add --resume true.")
    if resume and not (folder / "config.yaml").is_file():
        raise ValueError(f"--out {folder}: expected a {verb} folder to resume; it holds no config.yaml.")
    return folder


@contextmanager
def _resumable(verb: str, folder: Path) -> Iterator[None]:
    """Say how to go on, on Ctrl-C and after any failure in the middle."""
    on = f"  delineate {verb} --config {folder}/config.yaml --out {folder} --resume true"
    try:
        yield
    except (Interrupted, KeyboardInterrupt):
        if not (folder / "config.yaml").is_file() or not is_first():
            raise KeyboardInterrupt from None
        print(f"\nStopped; the last complete epoch is kept. To go on:\n{on}", file=sys.stderr)
        raise SystemExit(130) from None
    except Exception:
        if (folder / "config.yaml").is_file() and is_first():
            print(f"\nFailed; the last complete epoch is kept. To go on once this is mended:\n{on}", file=sys.stderr)
        raise


def _finish(folder: Path) -> None:
    """The report, and the same table on the terminal. Exit code 2 where no run reached its end."""
    page = write_report(folder)
    found = read_results(folder)
    if few := grid(found):
        write_few_labels_csv(few, folder / "few_labels.csv")
    Console().print(few_labels_table(few) if few else leaderboard_table(found))
    for sentence in verdict(found):
        print(sentence)
    for run in found.runs:
        if run.error:
            print(f"delineate: error: {run.loss}, seed {run.seed}: {run.error}", file=sys.stderr)
    print(f"report: {page}")
    if not found.scored():
        raise SystemExit(2)


if __name__ == "__main__":
    main()
