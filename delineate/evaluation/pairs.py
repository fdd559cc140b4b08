"""Predicted and true label maps on disk: which belong together, and whether they lie on one grid."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np

from delineate.data import DataError, nifti, picture
from delineate.data.item import first_few
from delineate.evaluation.cases import Case
from delineate.evaluation.labelling import Labelling

FAR = 0.1
"""The voxels of a prediction lie this far from those of its truth at most, as a share of the spacing."""
MISSING = (
    "A case that was not predicted is a failure: add the missing files, or name a folder with the true maps of these "
    "cases alone."
)
"""What to do about truths without prediction."""


@dataclass(frozen=True)
class Pair:
    """A predicted label map and the true one of the same name.

    Args:
        id: the name that both share, without ending.
        dims: 2 for pictures, 3 for volumes.
    """

    id: str
    prediction: Path
    truth: Path
    dims: int


def find_pairs(prediction: Path, truth: Path) -> tuple[Pair, ...]:
    """Pair the label maps of two folders by name, or two files.

    The ending takes no part in the name, nor does the channel number `_0000` of nnU-Net in that of a volume.

    Raises:
        DataError: where a prediction has no truth or a truth no prediction, and where there are no label maps.
    """
    _check_paths(prediction, truth)
    if prediction.is_file():
        found, true = {_name(truth): prediction}, {_name(truth): truth}
    else:
        found, true = _label_maps(prediction), _label_maps(truth)
    dims, found_dims = (3 if _is_volume(next(iter(paths.values()))) else 2 for paths in (true, found))
    if dims != found_dims:
        raise DataError(
            f"{prediction}, {truth}: expected label maps of one kind; got volumes in one and pictures in the other. "
            "Save both as NIfTI, or both as PNG."
        )
    _check_partners(found, true, prediction, truth)
    return tuple(Pair(name, found[name], path, dims) for name, path in sorted(true.items()))


def _check_paths(prediction: Path, truth: Path) -> None:
    for path, word in ((prediction, "predicted"), (truth, "true")):
        if not path.exists():
            raise DataError(
                f"{path}: expected a folder of {word} label maps, or one file; nothing is there. Check the path."
            )
    if prediction.is_file() != truth.is_file():
        raise DataError(
            f"{prediction}, {truth}: expected two folders, or two files; got one of each. Name a pair of one kind."
        )


def _check_partners(found: dict[str, Path], true: dict[str, Path], prediction: Path, truth: Path) -> None:
    for lone, kind, folder, remedy in (
        (true.keys() - found.keys(), "prediction", prediction, MISSING),
        (found.keys() - true.keys(), "truth", truth, "Remove these predictions, or add the missing files."),
    ):
        if lone:
            raise DataError(f"{folder}: expected one {kind} per case; none for {first_few(lone)}. {remedy}")


def check_grids(pairs: Sequence[Pair]) -> None:
    """Refuse pairs of two shapes, or of two places in space, from their headers alone.

    Raises:
        DataError: for the first such pair, and for a volume without spacing.
    """
    for pair in pairs:
        if pair.dims == 3:
            spacings = (nifti.read_spacing(pair.prediction), nifti.read_spacing(pair.truth))
            _check_shape(pair, nifti.read_size(pair.prediction), nifti.read_size(pair.truth))
            _check_place(pair, *spacings)
        else:
            _check_shape(pair, picture.read_size(pair.prediction), picture.read_size(pair.truth))


def read_cases(pairs: Sequence[Pair], labelling: Labelling, spacing: Sequence[float] | None = None) -> Iterator[Case]:
    """Read pair by pair; `spacing` is that of pictures, 1 pixel by default, volumes have their own.

    Raises:
        DataError: for a file that cannot be read, and for labels that are no class.
    """
    for pair in pairs:
        found = labelling.read_prediction(pair.prediction)
        true = labelling.read_truth(pair.truth)
        if pair.dims == 3:
            yield Case(pair.id, found, true, nifti.read_spacing(pair.truth), nifti.read_affine(pair.truth), pair.truth)
        else:
            yield Case(pair.id, found, true, picture_spacing(spacing), None, pair.truth)


def picture_spacing(spacing: Sequence[float] | None) -> tuple[float, ...]:
    """Distance between neighbouring pixels along rows and columns: as given, one number for both, or 1.

    >>> picture_spacing([0.5]), picture_spacing(None)
    ((0.5, 0.5), (1.0, 1.0))
    """
    steps = tuple(float(step) for step in spacing or (1.0,))
    if len(steps) not in (1, 2) or not all(np.isfinite(step) and step > 0 for step in steps):
        raise DataError(
            f"--spacing: expected one or two numbers above 0, the distance between pixels; got {list(spacing or ())}. "
            "Give it as in --spacing 0.5 0.5."
        )
    return steps * 2 if len(steps) == 1 else steps


def _check_shape(pair: Pair, found: tuple[int, ...], true: tuple[int, ...]) -> None:
    if found != true:
        raise DataError(
            f"{pair.prediction}: expected the shape of {pair.truth}, {true}; got {found}. "
            "Resample the prediction to the grid of the truth, by nearest neighbour."
        )


def _check_place(pair: Pair, found: tuple[float, ...], true: tuple[float, ...]) -> None:
    remedy = "Write the prediction with the header of its image, or resample it to the grid of the truth."
    if not np.allclose(found, true, rtol=1e-3, atol=0):
        raise DataError(
            f"{pair.prediction}: expected the spacing of {pair.truth}, {_mm(true)}; got {_mm(found)}. {remedy}"
        )
    corners = np.array([(*corner, 1.0) for corner in product(*((0, n - 1) for n in nifti.read_size(pair.truth)))])
    apart = (corners @ (nifti.read_affine(pair.prediction) - nifti.read_affine(pair.truth)).T)[:, :3]
    furthest = float(np.linalg.norm(apart, axis=1).max())
    if not furthest <= FAR * min(true):
        raise DataError(
            f"{pair.prediction}: expected the affine of {pair.truth}; got one that puts a corner {furthest:.3g} mm "
            f"away. {remedy}"
        )


def _mm(spacing: tuple[float, ...]) -> str:
    return " x ".join(f"{step:g}" for step in spacing) + " mm"


def _is_volume(path: Path) -> bool:
    return path.name.endswith(nifti.ENDINGS)


def _name(path: Path) -> str:
    return nifti.case_name(path) if _is_volume(path) else path.stem


def _label_maps(folder: Path) -> dict[str, Path]:
    """The label maps of a folder by name, all volumes or all pictures."""
    volumes: dict[str, Path] = {}
    for path in sorted(path for path in folder.iterdir() if _is_volume(path) and not path.name.startswith(".")):
        if other := volumes.get(_name(path)):
            raise DataError(f"{path}: expected one file per case; {other.name} has the same name. Remove one of them.")
        volumes[_name(path)] = path
    flat = picture.pictures(folder)
    if volumes and flat:
        raise DataError(
            f"{folder}: expected label maps of one kind; got volumes ({first_few(volumes, 1)}) and pictures "
            f"({first_few(flat, 1)}). Put them into folders of their own."
        )
    if not volumes and not flat:
        inside = [str(path) for path in sorted(folder.iterdir()) if path.is_dir() and path.name.startswith("labels")]
        remedy = f"Did you mean {' or '.join(inside)}?" if inside else "Check the path."
        raise DataError(f"{folder}: expected label maps, NIfTI volumes or PNG or TIFF pictures; got none. {remedy}")
    return volumes or flat
