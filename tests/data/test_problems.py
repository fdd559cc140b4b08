"""Problems of a data set: every kind is found on a tree made for it, several at once, and none on sound data."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from data_files import DATA, needs_data, striped, write_folder, write_mask, write_nnunet, write_picture, write_volume
from PIL import Image
from trees import voc_tree

from delineate.data import Problem, find_problems, open_source, statistics, without_errors


def folder_tree(root: Path, train: int = 4, val: int = 2) -> Path:
    """Train and val of plain folders, all images different; classes 0 and 1 by name."""
    for split, count, seed in (("train", train, 0), ("val", val, 100)):
        for index in range(count):
            write_picture(root / split / "images" / f"{split}{index}.png", seed=seed + index)
            write_mask(root / split / "masks" / f"{split}{index}.png", striped(0, 1))
    (root / "classes.txt").write_text("background\nthing\n")
    return root


def found_in(root: Path) -> tuple[Problem, ...]:
    return find_problems(open_source(root))


def only(problems: tuple[Problem, ...]) -> Problem:
    assert len(problems) == 1, problems
    return problems[0]


def test_sound_data_have_none(tmp_path: Path):
    assert found_in(folder_tree(tmp_path / "folder")) == ()
    assert found_in(write_nnunet(tmp_path / "volumes", n=1)) == ()


def test_an_image_that_cannot_be_read(tmp_path: Path):
    root = folder_tree(tmp_path)
    path = root / "val" / "images" / "val1.png"
    path.write_bytes(path.read_bytes()[:200])
    problem = only(found_in(root))
    assert (problem.kind, problem.severity, problem.split, problem.ids) == ("image", "error", "val", ("val1",))
    assert problem.files == (str(path),)
    assert "restore it" in problem.sentence


def test_an_image_without_a_header_is_told_once(tmp_path: Path):
    root = folder_tree(tmp_path)
    (root / "train" / "images" / "train0.png").write_text("not a picture")
    assert only(found_in(root)).kind == "image"


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (striped(0, 1, size=(8, 12)), r"the size of its image train1.png, (8, 10); got (8, 12)"),
        (striped(0, 1, 7), "expected labels 0..1; got 7"),
    ],
    ids=["size", "values"],
)
def test_a_mask_that_does_not_fit(labels, words: str, tmp_path: Path):
    root = folder_tree(tmp_path)
    write_mask(root / "train" / "masks" / "train1.png", labels)
    problem = only(found_in(root))
    assert (problem.kind, problem.severity, problem.split, problem.ids) == ("mask", "error", "train", ("train1",))
    assert words in problem.sentence


def test_an_image_twice(tmp_path: Path):
    root = folder_tree(tmp_path)
    Image.open(root / "train/images/train0.png").save(root / "train/images/train3.bmp")  # another file, the same image
    (root / "train" / "images" / "train3.png").unlink()
    problem = only(found_in(root))
    assert (problem.kind, problem.severity, problem.ids) == ("duplicate", "warning", ("train0", "train3"))
    write_mask(root / "train" / "masks" / "train3.png", striped(1, 0))
    problem = only(found_in(root))
    assert (problem.kind, problem.severity) == ("duplicate", "error")
    assert "different masks" in problem.sentence


@pytest.mark.parametrize(("first", "second"), [("train", "val"), ("train", "test")])
def test_an_image_in_two_splits(first, second, tmp_path: Path):
    root = folder_tree(tmp_path)
    write_picture(root / "test" / "images" / "test0.png", seed=500)
    shutil.copy(root / first / "images" / f"{first}2.png", root / second / "images" / f"{second}0.png")
    problem = only(found_in(root))
    assert (problem.kind, problem.severity, problem.split) == ("leak", "error", f"{first}, {second}")
    assert set(problem.ids) == {f"{first}2", f"{second}0"}
    assert problem.sentence.startswith(f"1 image of {second} is in {first} too")


def test_val_and_test_may_share(tmp_path: Path):
    root = folder_tree(tmp_path)
    (root / "test" / "images").mkdir(parents=True)
    for index in range(2):
        shutil.copy(root / "val" / "images" / f"val{index}.png", root / "test" / "images" / f"t{index}.png")
    problem = only(found_in(root))
    assert (problem.severity, problem.split) == ("warning", "val, test")
    assert problem.sentence.startswith("2 images of test are in val too")


def test_unlabelled_images_that_are_labelled_or_held_out(tmp_path: Path):
    source = open_source(folder_tree(tmp_path))
    first, held = source.items("train")[0], source.items("val")[0]
    bare = tuple(replace(item, mask=None) for item in (first, held))
    error, warning = find_problems(replace(source, splits={**source.splits, "unlabelled": bare}))
    assert (error.kind, error.severity, error.split, error.ids) == ("leak", "error", "unlabelled, val", ("val0",))
    assert (warning.kind, warning.severity, warning.split) == ("leak", "warning", "train, unlabelled")


def test_masks_without_an_object_are_a_remark(tmp_path: Path):
    root = folder_tree(tmp_path)
    for name in ("train0", "train2"):
        write_mask(root / "train" / "masks" / f"{name}.png", striped(0))
    problem = only(found_in(root))
    assert (problem.kind, problem.severity, problem.ids) == ("empty", "warning", ("train0", "train2"))
    assert "2 of 4 masks of train" in problem.sentence


def test_names_that_differ_in_case_alone(tmp_path: Path):
    root = folder_tree(tmp_path)
    write_picture(root / "val" / "images" / "TRAIN0.png", seed=300)
    write_mask(root / "val" / "masks" / "TRAIN0.png", striped(0, 1))
    problem = only(found_in(root))
    assert (problem.kind, problem.severity, problem.ids) == ("name", "warning", ("train0", "TRAIN0"))


def write_ids(root: Path, name: str, size: tuple[int, int] = (8, 10)) -> None:
    write_mask(root / "train" / "instances" / f"{name}.png", striped(0, 1, 2, size=size))


def test_maps_of_instances_that_are_missing_or_do_not_fit(tmp_path: Path):
    root = folder_tree(tmp_path, val=0)
    for index in range(4):
        write_picture(root / "val" / "images" / f"v{index}.png", seed=700 + index)
        write_mask(root / "val" / "masks" / f"v{index}.png", striped(0, 1))
        write_mask(root / "val" / "instances" / f"v{index}.png", striped(0, 1))
        write_ids(root, f"train{index}")
    assert found_in(root) == ()
    write_ids(root, "train1", size=(8, 9))
    (root / "train" / "instances" / "train2.png").unlink()
    error, warning = found_in(root)
    assert (error.kind, error.severity, error.ids) == ("instances", "error", ("train1",))
    assert "train1.png: expected the size of its mask, (8, 10); got (8, 9)" in error.sentence
    assert (warning.kind, warning.severity, warning.ids) == ("instances", "warning", ("train2",))
    assert [item.id for item in without_errors(open_source(root), (error,)).items("train")] == [
        "train0",
        "train2",
        "train3",
    ]


def several(root: Path) -> Path:
    """An unreadable image, a mask of another size, one out of range, an image twice, and a leak."""
    folder_tree(root, train=8)
    (root / "train" / "images" / "train1.png").write_bytes(b"")
    write_mask(root / "train" / "masks" / "train2.png", striped(0, 1, size=(9, 10)))
    write_mask(root / "train" / "masks" / "train3.png", striped(0, 9))
    shutil.copy(root / "train" / "images" / "train4.png", root / "train" / "images" / "train5.png")
    shutil.copy(root / "train" / "images" / "train6.png", root / "val" / "images" / "val0.png")
    return root


def test_several_at_once_are_all_named_errors_first(tmp_path: Path):
    source = open_source(several(tmp_path))
    calls: list[tuple[int, int]] = []
    problems = find_problems(source, progress=lambda done, total: calls.append((done, total)))
    assert [(p.kind, p.severity) for p in problems] == [
        ("image", "error"),
        ("mask", "error"),
        ("mask", "error"),
        ("leak", "error"),
        ("duplicate", "warning"),
    ]
    assert calls[-1] == (10, 10)
    assert json.loads(json.dumps([p.to_dict() for p in problems]))[0]["ids"] == ["train1"]
    usable = without_errors(source, problems)
    assert [item.id for item in usable.items("train")] == ["train0", "train4", "train5", "train6", "train7"]
    assert statistics(usable, "train").images == 5
    assert all("\n" not in p.sentence for p in problems)


def test_volumes(tmp_path: Path):
    root = write_nnunet(tmp_path, n=5)
    for case in range(5):
        write_volume(root / "imagesTr" / f"c{case}_0000.nii.gz", np.full((4, 5, 6), case, np.float32))
    (root / "imagesTr" / "c1_0000.nii.gz").write_bytes(b"cut")
    write_volume(root / "labelsTr" / "c2.nii.gz", np.full((4, 5, 6), 5, np.uint8))
    write_volume(root / "labelsTr" / "c3.nii.gz", np.zeros((4, 5, 7), np.uint8))
    problems = found_in(root)
    assert sorted((p.kind, p.ids) for p in problems) == [("image", ("c1",)), ("mask", ("c2",)), ("mask", ("c3",))]


def test_images_of_a_subset_of_a_split_are_no_duplicates(tmp_path: Path):
    source = open_source(voc_tree(tmp_path))
    assert set(source.splits) >= {"train", "val", "fine"}
    assert [p for p in find_problems(source) if p.severity == "error"] == []


@needs_data
@pytest.mark.parametrize("name", ["camvid", "nuclei"])
def test_real_data_have_none(name):
    assert found_in(DATA / name) == ()


def test_the_note_on_a_made_split_is_no_problem(tmp_path: Path):
    assert found_in(write_folder(tmp_path, n=5)) == ()
