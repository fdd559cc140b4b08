"""nnU-Net raw data sets: imagesTr/CASE_0000.nii.gz, labelsTr/CASE.nii.gz and dataset.json of version 1 or 2."""

import json
from pathlib import Path
from typing import Any

from delineate.data.item import DataError, Item, first_few
from delineate.data.nifti import ENDINGS, case_name, channel_path
from delineate.data.picture import voc_palette
from delineate.data.source import Source
from delineate.data.splits import split_items

FIRST_CHANNEL = tuple(f"_0000{ending}" for ending in ENDINGS)


def is_nnunet(root: Path) -> bool:
    """Whether the folder is an nnU-Net raw data set."""
    return (root / "imagesTr").is_dir() or (root / "labelsTr").is_dir() or (root / "dataset.json").is_file()


def open_nnunet(root: Path) -> Source:
    """Open an nnU-Net raw data set of NIfTI volumes; 20 % of the cases are set aside for validation."""
    description = read_description(root / "dataset.json")
    classes, ignore_index = read_labels(root / "dataset.json", description["labels"])
    channels = len(description.get("channel_names") or description.get("modality") or {"0": "image"})
    ending = description.get("file_ending", ".nii.gz")
    if ending not in ENDINGS:
        raise DataError(
            f"{root / 'dataset.json'}: expected file_ending {' or '.join(ENDINGS)}; got {ending!r}. "
            "Convert the volumes to NIfTI; for pictures use folders images/ and masks/."
        )
    splits, note = split_items(_read_cases(root, "Tr", ending, channels))
    if (root / "imagesTs").is_dir():
        splits["test"] = _read_cases(root, "Ts", ending, channels)
    return Source(
        root=root,
        layout="nnunet",
        dims=3,
        classes=classes,
        ignore_index=ignore_index,
        splits=splits,
        palette=voc_palette(len(classes)),
        channels=channels,
        notes=(note,),
    )


def read_description(path: Path) -> dict[str, Any]:
    """The content of a dataset.json. DataError where it cannot be read or has no labels."""
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path}: expected a JSON file that describes the data set; {error}. Write or correct it."
        ) from None
    if not isinstance(description, dict) or not isinstance(description.get("labels"), dict):
        raise DataError(
            f'{path}: expected an entry "labels" such as {{"background": 0, "lesion": 1}}; it has none. Add it.'
        )
    return description


def read_labels(path: Path, labels: dict[str, Any]) -> tuple[tuple[str, ...], int | None]:
    """Class names in order and the value to ignore, from {name: value} (version 2) or {value: name} (version 1).

    Args:
        path: the dataset.json, named in errors.
        labels: its entry "labels".

    Raises:
        DataError: for regions of several labels, and for values that are not 0, 1, 2, ...
    """
    if all(str(key).isdigit() for key in labels):
        labels = {str(name): int(value) for value, name in labels.items()}
    if not all(isinstance(value, int) for value in labels.values()):
        raise DataError(
            f"{path}: expected one whole number per label; got {labels}. "
            "Regions of several labels are not supported: give each label its own entry."
        )
    ignore_index = labels.pop("ignore", None) if len(labels) > 2 else None
    names = {value: name for name, value in labels.items()}
    if sorted(names) != list(range(len(labels))) or len(names) < 2:
        raise DataError(f"{path}: expected labels 0, 1, 2, ... without gaps, two or more; got {labels}. Renumber them.")
    return tuple(names[value] for value in range(len(names))), ignore_index


def _read_cases(root: Path, suffix: str, ending: str, channels: int) -> tuple[Item, ...]:
    """The cases of images{suffix} and labels{suffix}, checked for missing files; labelsTs may be missing."""
    images, labels = root / f"images{suffix}", root / f"labels{suffix}"
    cases = sorted(path.name.removesuffix(f"_0000{ending}") for path in images.glob(f"[!.]*_0000{ending}"))
    if not cases:
        raise DataError(
            f"{images}: expected volumes named CASE_0000{ending}; got none. "
            "Name channel c of a case CASE_000c, or correct file_ending in dataset.json."
        )
    labelled = {path.name.removesuffix(ending) for path in labels.glob(f"[!.]*{ending}")}
    if suffix == "Tr" or labelled:
        for lone, lacking in ((set(cases) - labelled, labels), (labelled - set(cases), images)):
            if lone:
                raise DataError(
                    f"{lacking}: expected a file for every case; none for {first_few(lone)}. Add the files."
                )
    firsts = {case: images / f"{case}_0000{ending}" for case in cases}
    for channel in range(1, channels):
        lone = {case for case, first in firsts.items() if not channel_path(first, channel).is_file()}
        if lone:
            raise DataError(
                f"{images}: expected {channels} channels a case, as dataset.json says; no _{channel:04d}{ending} "
                f"for {first_few(lone)}. Add the files or correct dataset.json."
            )
    return tuple(Item(case, firsts[case], labels / f"{case}{ending}" if labelled else None) for case in cases)


def list_volumes(path: Path | str) -> tuple[Item, ...]:
    """Unlabelled items, for prediction: the volume of channel 0, or all CASE_0000.nii.gz (or .nii) of a folder."""
    path = Path(path)
    files = [path] if path.is_file() else [file for end in ENDINGS for file in path.glob(f"[!.]*_0000{end}")]
    items = {case_name(file): Item(case_name(file), file, None) for file in files if file.name.endswith(FIRST_CHANNEL)}
    if not items:
        raise DataError(
            f"{path}: expected volumes named CASE_0000.nii.gz, channel c as CASE_000c.nii.gz; got none. "
            "Rename the files, or check the path."
        )
    return tuple(items[name] for name in sorted(items))
