"""Volumes in NIfTI files, read by nibabel: image channels, labels and spacing, as stored (no reorientation)."""

import math
import zlib
from pathlib import Path

import nibabel
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.openers import ImageOpener
from nibabel.spatialimages import HeaderDataError
from nibabel.wrapstruct import WrapStructError

from delineate.data.item import DataError

ENDINGS = (".nii.gz", ".nii")
_UNREADABLE = (OSError, EOFError, ValueError, zlib.error, ImageFileError, HeaderDataError, WrapStructError)


def _remedy(path: Path, error: Exception) -> DataError:
    reason = " ".join(str(error).split()) or type(error).__name__
    return DataError(
        f"{path}: expected a readable NIfTI volume; {reason}. "
        "The file is missing, cut short or of another kind: restore it, or remove the case."
    )


def _header(path: Path) -> nibabel.Nifti1Header:
    try:
        header = nibabel.Nifti1Image.from_filename(path).header
    except _UNREADABLE as error:
        raise _remedy(path, error) from None
    if len(header.get_data_shape()) != 3:
        raise DataError(
            f"{path}: expected a volume of 3 axes; got shape {header.get_data_shape()}. "
            "Save each channel or time step as its own file, ending in _0000, _0001, ..."
        )
    return header


def _read(path: Path) -> np.ndarray:
    _header(path)
    try:
        return np.asarray(nibabel.Nifti1Image.from_filename(path, mmap=False).dataobj)
    except _UNREADABLE as error:
        raise _remedy(path, error) from None


def case_name(path: Path) -> str:
    """The file name without its ending and without `_0000`.

    >>> case_name(Path("imagesTr/brain_07_0000.nii.gz")), case_name(Path("brain_07.nii"))
    ('brain_07', 'brain_07')
    """
    name = next((path.name.removesuffix(end) for end in ENDINGS if path.name.endswith(end)), path.stem)
    return name.removesuffix("_0000")


def channel_path(first: Path, channel: int) -> Path:
    """The file of another channel of a case, given the file of channel 0 (`..._0000.nii.gz`)."""
    case, ending = first.name.rsplit("_0000", maxsplit=1)
    return first.with_name(f"{case}_{channel:04d}{ending}")


def read_size(path: Path) -> tuple[int, ...]:
    """The shape *S of a volume, from its header alone."""
    return tuple(int(n) for n in _header(path).get_data_shape())


def read_spacing(path: Path) -> tuple[float, ...]:
    """Distance of neighbouring voxels along each axis of the array, in mm, as stored in the header.

    Raises:
        DataError: where the header gives none: a spacing of 0, below, or not finite.
    """
    try:
        with ImageOpener(str(path)) as file:
            raw = nibabel.Nifti1Header(file.read(nibabel.Nifti1Header.sizeof_hdr), check=False)
    except _UNREADABLE as error:
        raise _remedy(path, error) from None
    spacing = tuple(float(step) for step in raw["pixdim"][1:4])  # as stored: checking would turn 0 into 1
    if raw["sizeof_hdr"] == raw.sizeof_hdr and not all(math.isfinite(step) and step > 0 for step in spacing):
        raise DataError(
            f"{path}: expected the distance between voxels in the header, above 0; got pixdim {spacing}. "
            "Distances in mm need it: write the spacing of the scan into the header, or convert the scan again."
        )
    _header(path)
    return spacing


def read_affine(path: Path) -> np.ndarray:
    """From voxel indices to mm, float64 (4, 4), as the header has it."""
    read_spacing(path)
    affine = np.asarray(nibabel.Nifti1Image.from_filename(path).affine, dtype=np.float64)
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-9:
        raise DataError(
            f"{path}: expected an affine that gives every voxel its place; got {affine[:3].tolist()}. "
            "Correct the sform or qform of the header, or convert the scan again."
        )
    return affine


def read_image(first: Path) -> np.ndarray:
    """All channels of a case, float32 (channels, *S), from the file of channel 0 and its numbered siblings."""
    paths = [first]
    while (path := channel_path(first, len(paths))).is_file():
        paths.append(path)
    volumes = [_read(path).astype(np.float32) for path in paths]
    for path, volume in zip(paths, volumes, strict=True):
        if volume.shape != volumes[0].shape:
            raise DataError(
                f"{path}: expected the shape of channel 0, {volumes[0].shape}; got {volume.shape}. "
                "Resample all channels of a case to one grid."
            )
    return np.stack(volumes)


def read_labels(path: Path) -> np.ndarray:
    """The labels of a volume, integer (*S). Float files are accepted where every value is whole."""
    labels = _read(path)
    if labels.dtype.kind in "iu":
        return labels
    whole = np.rint(labels)
    if not np.array_equal(whole, labels) or np.abs(whole).max(initial=0) > 2**31 - 1:
        raise DataError(
            f"{path}: expected whole labels; got {labels.dtype} values between them, or not finite. "
            "Resample labels by nearest neighbour and save them as integers."
        )
    return whole.astype(np.int32)


def write_labels(labels: np.ndarray, path: Path, like: Path) -> None:
    """Write labels (*S), uint8 or the smallest unsigned type that holds them, with the affine of the file `like`."""
    image = nibabel.Nifti1Image.from_filename(like)
    kind = np.min_scalar_type(max(int(labels.max(initial=0)), 0))
    written = nibabel.Nifti1Image(labels.astype(kind), image.affine, image.header, dtype=kind)
    written.header["cal_min"] = written.header["cal_max"] = 0
    written.to_filename(path)
