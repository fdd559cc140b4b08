"""What the values of label maps stand for: class names, the classes that are scored, values that are ignored."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from delineate.data import DataError, Source, nifti, picture
from delineate.data.item import read_classes
from delineate.data.nnunet import read_description, read_labels

LARGEST = 2**16 - 1
"""The largest label that is taken for a class where no names are given."""


@dataclass(frozen=True)
class Labelling:
    """Names for the values of predicted and true label maps.

    Args:
        classes: name of each class; label c is `classes[c]`.
        scored: labels that are scored, ascending; background is not.
        ignore_index: value of true voxels that take no part.
        relabel_prediction: values of prediction files that stand for another label, for example {255: 1}.
        relabel_truth: the same of the truth.
        notes: sentences on what was decided by looking.
    """

    classes: tuple[str, ...]
    scored: tuple[int, ...]
    ignore_index: int | None = None
    relabel_prediction: dict[int, int] = field(default_factory=dict)
    relabel_truth: dict[int, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def read_prediction(self, path: Path) -> np.ndarray:
        """The labels of a predicted map, every one a class. DataError names the file where they are not."""
        return self._read(path, self.relabel_prediction, None)

    def read_truth(self, path: Path) -> np.ndarray:
        """The labels of a true map, every one a class or `ignore_index`."""
        return self._read(path, self.relabel_truth, self.ignore_index)

    def _read(self, path: Path, relabel: dict[int, int], ignore_index: int | None) -> np.ndarray:
        labels = read_label_map(path)
        for value, label in relabel.items():
            labels = np.where(labels == value, labels.dtype.type(label), labels)
        wrong = (labels < 0) | (labels >= len(self.classes))
        if ignore_index is not None:
            wrong &= labels != ignore_index
        if wrong.any():
            void = "" if ignore_index is None else f" or {ignore_index} (ignored)"
            found = ", ".join(str(value) for value in np.unique(labels[wrong])[:5])
            raise DataError(
                f"{path}: expected labels 0..{len(self.classes) - 1}{void}; got {found}. "
                "Name every class with --classes, or void voxels of the truth with --ignore_index."
            )
        return labels


def read_label_map(path: Path) -> np.ndarray:
    """The values of a NIfTI volume or of a picture as stored, integer (*S)."""
    return nifti.read_labels(path) if path.name.endswith(nifti.ENDINGS) else picture.read_labels(path)


def scored_labels(classes: Sequence[str], background: bool = False) -> tuple[int, ...]:
    """All labels, but not 0 where it is the background: said so, or by its name.

    >>> scored_labels(("background", "lesion")), scored_labels(("sky", "road"))
    ((1,), (0, 1))
    """
    return tuple(range(int(background or "background" in classes[0].lower()), len(classes)))


def scored_of(source: Source) -> tuple[int, ...]:
    """The labels of a data set that are scored."""
    return scored_labels(source.classes, background=source.layout == "nnunet")


def find_labelling(
    predictions: Sequence[Path],
    truths: Sequence[Path],
    classes: Sequence[str] | None = None,
    ignore_index: int | None = None,
) -> Labelling:
    """Name the labels of pairs of label maps.

    Names are those given, else of a `dataset.json` or `classes.txt` in the folder of the truth or above it, else
    `class_1`, `class_2`, ... for the labels that occur. In pictures, 255 stands for 1 where a side holds only 0 and
    255, and is ignored where the truth holds it beside other labels.

    Raises:
        DataError: for names that are doubled or too few, and where no label but 0 occurs.
    """
    names, labelling_ignore, source = _known_names(truths[0].parent, classes)
    ignore_index = labelling_ignore if ignore_index is None else ignore_index
    flat = not truths[0].name.endswith(nifti.ENDINGS)
    if names and not flat:
        return Labelling(names, scored_labels(names, source.endswith("dataset.json")), ignore_index, notes=(source,))
    found, true = _values(predictions, None), _values(truths, ignore_index)
    notes, relabels = [source] if names else [], [{}, {}]
    if flat and ignore_index != 255 and len(names or "ab") == 2:
        relabels = [_relabel(found, "predictions", notes), _relabel(true, "truth", notes)]
    if flat and ignore_index is None and 255 in true and len(names or ()) <= 255:
        ignore_index = 255
        notes.append("value 255 of the truth is ignored")
    if names:
        scored = scored_labels(names, source.endswith("dataset.json"))
    else:
        names, scored = _names_of(found | true - {ignore_index}, truths[0].parent)
        notes.append(f"classes named after the labels found: {', '.join(names[label] for label in scored[:8])}")
    return Labelling(names, scored, ignore_index, relabels[0], relabels[1], tuple(notes))


def _relabel(values: set[int], side: str, notes: list[str]) -> dict[int, int]:
    """Have 255 stand for 1 in values that hold only 0 and 255, and say so."""
    if 255 not in values or not values <= {0, 255}:
        return {}
    values.remove(255)
    values.add(1)
    notes.append(f"value 255 of the {side} read as label 1: they hold only 0 and 255")
    return {255: 1}


def _known_names(folder: Path, given: Sequence[str] | None) -> tuple[tuple[str, ...] | None, int | None, str]:
    """Class names, the value to ignore and where they come from; None where nothing names the classes."""
    if given is not None:
        if len(given) < 2 or len(set(given)) < len(given):
            raise DataError(
                f"--classes: expected two or more different names, in the order of the labels 0, 1, ...; "
                f"got {', '.join(given) or 'none'}. Name label 0 too, as in --classes background lesion."
            )
        return tuple(given), None, "classes named by --classes"
    for place in (folder, folder.resolve().parent):
        if (path := place / "dataset.json").is_file():
            names, ignore_index = read_labels(path, read_description(path)["labels"])
            return names, ignore_index, f"classes named by {path}"
        if names := read_classes(place):
            return names, None, f"classes named by {place / 'classes.txt'}"
    return None, None, ""


def _values(paths: Iterable[Path], ignore_index: int | None) -> set[int]:
    """Every value that occurs in any of the files, `ignore_index` apart."""
    found: set[int] = set()
    for path in paths:
        values = np.unique(read_label_map(path))
        values = values[values != ignore_index] if ignore_index is not None else values
        if values.size and (values[0] < 0 or values[-1] > LARGEST):
            raise DataError(
                f"{path}: expected labels 0..{LARGEST}; got {values[0]}..{values[-1]}. "
                "Number the classes from 0, or name void voxels with --ignore_index and all classes with --classes."
            )
        found.update(values.tolist())
    return found


def _names_of(values: set[int], folder: Path) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Names for all labels up to the largest, and the labels that occur, 0 apart."""
    scored = tuple(sorted(values - {0}))
    if not scored:
        raise DataError(
            f"{folder}: expected a label besides 0 in the truth or the predictions; there is none. "
            "Name the classes with --classes, or check the export."
        )
    if scored == (1,):
        return ("background", "foreground"), scored
    return ("background", *(f"class_{label}" for label in range(1, scored[-1] + 1))), scored
