"""`python -m delineate.nnunet VERB ...`: nnU-Net's own commands, which then find the trainer of this package."""

import argparse
import importlib.util
import os
import sys
import traceback
from dataclasses import fields
from pathlib import Path

from delineate.nnunet.options import TRAINER, Options, variable

EXTERNAL, FOUND_BY = Path(__file__).parent / "external", "nnUNet_extTrainer"
USAGE = """\
  train DATASET CONFIGURATION FOLD --loss "Dice + CE" ...   nnUNetv2_train
  predict -d DATASET -c CONFIGURATION -i IN -o OUT ...      nnUNetv2_predict, with the options of the training
  folder                                                    for the environment variable nnUNet_extTrainer

Options that are not given are taken from DELINEATE_LOSS, DELINEATE_EPOCHS, DELINEATE_ITERATIONS, DELINEATE_SCHEDULE and
DELINEATE_LR, or are nnU-Net's own. All other arguments go to nnU-Net's command.
"""


def main(arguments: list[str] | None = None) -> None:
    """Run a verb. Bad input ends in one line and exit code 2."""
    given, theirs = _parser().parse_known_args(arguments)
    if given.verb == "folder":
        print(EXTERNAL)
        return
    try:
        _run(given, theirs)
    except ValueError as error:
        if not traceback.extract_tb(error.__traceback__)[-1].filename.startswith(str(Path(__file__).parents[1])):
            raise
        print(f"delineate: error: {error}", file=sys.stderr)
        raise SystemExit(2) from None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "python -m delineate.nnunet",
        description="Train and predict with nnU-Net v2 and any loss of delineate.",
        epilog=USAGE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("verb", choices=("train", "predict", "folder"))
    parser.add_argument("--loss", help='expression such as "Dice + 0.5*TopK(k=0.1)"')
    parser.add_argument("--epochs", help="number of epochs (1000)")
    parser.add_argument("--iterations", help="steps of an epoch (250)")
    parser.add_argument("--schedule", help="poly, cosine or constant (poly)")
    parser.add_argument("--lr", help="learning rate of the first epoch (0.01)")
    return parser


def _run(given: argparse.Namespace, theirs: list[str]) -> None:
    texts = {field.name: getattr(given, field.name) for field in fields(Options)}
    options = Options.read(os.environ | {variable(name): text for name, text in texts.items() if text is not None})
    if "-tr" in theirs:
        raise ValueError(f"-tr: expected no other trainer than {TRAINER}, which is given by itself. Leave it out.")
    if importlib.util.find_spec("nnunetv2") is None:
        raise ValueError('nnunetv2: expected the package; it is not installed. Run pip install "delineate[nnunet]".')
    others = [path for path in os.environ.get(FOUND_BY, "").split(os.pathsep) if path]
    os.environ |= options.variables() | {FOUND_BY: os.pathsep.join([str(EXTERNAL), *others])}
    sys.argv = [f"nnUNetv2_{given.verb}", *theirs, "-tr", TRAINER if given.verb == "train" else options.folder()]
    print(f"delineate: {options.loss}; results in the folder of {options.folder()}", flush=True)
    if given.verb == "train":
        from nnunetv2.run.run_training import run_training_entry as run
    else:
        from nnunetv2.inference.predict_from_raw_data import predict_entry_point as run
    run()


if __name__ == "__main__":
    main()
