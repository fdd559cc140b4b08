"""Few labelled images, many unlabelled ones: shares, lists, folders and protocols."""

import json
import shutil
from hashlib import sha256
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from data_files import DATA, needs_data, striped, write_folder, write_mask, write_nnunet, write_picture
from trees import cityscapes_tree, voc_tree

from delineate.data import DataError, Source, few_labels, labelled, open_source, write_split_lists
from delineate.data.labelled import choose_labelled, classes_held, protocol_of

SMALL = {"classic": {4: 4}, "priority": {6: 4}, "blended": {6: 1, 8: None}}
"""Published lists in miniature: labelled images by protocol, and how many of them are fine."""


def ids(source: Source, split: str) -> list[str]:
    return [item.id for item in source.items(split)]


def names(*numbers: int) -> list[str]:
    return [f"2008_{number:06d}" for number in numbers]


def write_list(path: Path, members: list[str]) -> str:
    """A list of images of a PASCAL VOC tree in the published form."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"JPEGImages/{name}.jpg SegmentationClass/{name}.png\n" for name in members))
    return str(path)


@pytest.fixture(scope="module")
def voc(tmp_path_factory: pytest.TempPathFactory) -> Source:
    return open_source(voc_tree(tmp_path_factory.mktemp("voc") / "set", train=12, val=3, fine=4))


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(labelled, "PUBLISHED", SMALL)


@pytest.mark.parametrize(("labeled", "count"), [("1/4", 3), ("0.25", 3), ("0.26", 4), ("5", 5), ("11", 11), ("1", 1)])
def test_shares_and_counts(voc: Source, labeled: str, count: int):
    few = few_labels(voc, labeled)
    assert (len(few.items("train")), len(few.items("unlabelled"))) == (count, 12 - count)
    assert sorted(ids(few, "train") + ids(few, "unlabelled")) == ids(voc, "train")
    assert all(item.mask is None for item in few.items("unlabelled"))
    assert all(item in voc.items("train") for item in few.items("train"))
    assert {name: few.splits[name] for name in ("val", "fine")} == {name: voc.splits[name] for name in ("val", "fine")}
    assert (few.protocol, few.seed) == ("own", 0)
    assert f"labelled part: {count} images, chosen out of 12 by classes and by a hash of the id, seed 0" in few.notes


def test_smaller_choices_are_parts_of_larger_ones(voc: Source):
    chosen = [set(choose_labelled(voc, count)) for count in range(1, 13)]
    assert [len(items) for items in chosen] == list(range(1, 13))
    assert all(small < large for small, large in pairwise(chosen))
    assert choose_labelled(voc, 6) == choose_labelled(voc, 6)
    assert len({choose_labelled(voc, 6, seed) for seed in range(5)}) > 1


def test_rare_classes_are_labelled_first(tmp_path: Path):
    root = write_folder(tmp_path, n=20, values=(0, 1))
    for index, values in ((3, (0, 2)), (12, (0, 3)), (11, (2, 255))):
        write_mask(root / "masks" / f"p{index}.png", striped(*values))
    source = open_source(root)
    held = dict(zip(ids(source, "train"), classes_held(source, source.items("train")), strict=True))
    everything = set().union(*held.values())
    assert everything == {0, 1, 2, 3}
    for seed in range(4):
        chosen = choose_labelled(source, len(everything) - 1, seed)  # class 0 comes along with others
        assert set().union(*(held[item.id] for item in chosen)) == everything


def test_absent_classes_are_said(voc: Source, tmp_path: Path):
    held = dict(zip(ids(voc, "train"), classes_held(voc, voc.items("train")), strict=True))
    few = min(held, key=lambda name: len(held[name]))
    lacking = [voc.classes[label] for label in range(4) if label not in held[few]]
    assert lacking
    notes = few_labels(voc, write_list(tmp_path / "few.txt", [few])).notes
    assert f"labelled part lacks: {', '.join(lacking)}" in notes
    assert "labelled part holds all 4 classes" in few_labels(voc, "11").notes


def test_a_list_and_the_one_beside_it(voc: Source, tmp_path: Path):
    path = write_list(tmp_path / "labeled.txt", names(3, 1))
    few = few_labels(voc, path)
    assert (ids(few, "train"), len(few.items("unlabelled")), few.seed) == (names(3, 1), 10, None)
    assert f"labelled part: 2 images, from {path}" in few.notes
    assert "unlabelled part: 10 images, the rest of train" in few.notes
    beside = write_list(tmp_path / "unlabeled.txt", names(5, 6))
    few = few_labels(voc, path)
    assert ids(few, "unlabelled") == names(5, 6)
    assert f"unlabelled part: 2 images, from {beside}" in few.notes
    assert ids(few_labels(voc, path, write_list(tmp_path / "more" / "other.txt", names(7))), "unlabelled") == names(7)


def test_lists_of_the_data_set_answer_a_share(tmp_path: Path):
    root = voc_tree(tmp_path / "set")
    write_list(root / "splits" / "1_8" / "labeled.txt", names(8, 9, 10))
    source = open_source(root)
    for labeled in ("1/8", "0.125", "2/16"):
        few = few_labels(source, labeled)
        assert ids(few, "train") == names(8, 9, 10)
        assert any(note.endswith("splits/1_8/labeled.txt, which the data set brings") for note in few.notes)
    assert len(few_labels(source, "1/6").items("train")) == 2


def test_images_elsewhere(voc: Source, tmp_path: Path):
    same = names(2)[0]
    for index, name in enumerate(("b", "a", same, f"extra_{same}")):
        write_picture(tmp_path / "extra" / f"{name}.png", seed=index)
    few = few_labels(voc, "3", str(tmp_path / "extra"))
    assert ids(few, "unlabelled") == [f"extra_{same}", "a", "b", f"extra_extra_{same}"]  # no two images of one id
    assert few.items("unlabelled")[1].image == tmp_path / "extra" / "a.png"
    assert len(few_labels(voc, "12", str(tmp_path / "extra")).items("unlabelled")) == 4


def test_volumes(tmp_path: Path):
    source = open_source(write_nnunet(tmp_path / "set", n=5, channels=2))
    few = few_labels(source, "1/2")
    assert [len(few.items(name)) for name in ("train", "unlabelled", "val")] == [2, 2, 1]
    write_nnunet(tmp_path / "other", n=2, channels=2)
    for case in range(2):  # other content than the cases of the data set
        shutil.copy(source.items("train")[0].mask, tmp_path / "other" / "imagesTr" / f"c{case}_0000.nii.gz")
    few = few_labels(source, "2", str(tmp_path / "other" / "imagesTr"))
    assert ids(few, "unlabelled") == ["imagesTr_c0", "imagesTr_c1"]
    (tmp_path / "other" / "imagesTr" / "c1_0001.nii.gz").unlink()
    with pytest.raises(DataError, match=r"c1_0001\.nii\.gz: expected 2 channels a case; this file is missing\. Add"):
        few_labels(source, "2", str(tmp_path / "other" / "imagesTr"))


@pytest.mark.parametrize(
    ("labeled", "message"),
    [
        ("0", "labeled 0: expected 1 to 12 images, those of train; got 0"),
        ("13", "labeled 13: expected 1 to 12 images, those of train; got 13"),
        ("12", "expected images of train without a label; all 12 are labelled"),
        ("0.99", "expected images of train without a label; all 12 are labelled"),
        *((wrong, "expected a share between 0 and 1, both excluded") for wrong in ("1.5", "0/4", "3/2", "1/0", "-1")),
        ("few", r"labeled 'few': expected a share such as 1/8, a number of images, or a list; there is no file"),
    ],
)
def test_what_cannot_be_asked_for(voc: Source, labeled: str, message: str):
    with pytest.raises(DataError, match=message) as caught:
        few_labels(voc, labeled)
    assert "\n" not in str(caught.value)


def test_missing_files_are_named_with_their_line(voc: Source, tmp_path: Path):
    good, bad = write_list(tmp_path / "good.txt", names(0)), write_list(tmp_path / "bad.txt", names(1, 99))
    for pair in ((bad, None), (good, bad)):
        with pytest.raises(DataError, match=r"bad\.txt, line 2: expected a file; .*2008_000099\.jpg is missing"):
            few_labels(voc, *pair)
    with pytest.raises(DataError, match=r"unlabeled .*none: expected a list or a folder of images; there is none"):
        few_labels(voc, good, str(tmp_path / "none"))


@pytest.mark.parametrize(
    ("some", "rest", "message"),
    [
        ((0, 1, 2), (5, 1), "expected unlabelled images that are not labelled as well; got 2008_000001"),
        ((0, 12), (5, 6), "expected labelled images that are not val as well; got 2008_000012"),
        ((0, 1), (5, 13, 14), r"expected unlabelled images that are not val as well; got 2008_000013, 2008_000014"),
    ],
)
def test_parts_do_not_overlap(voc: Source, tmp_path: Path, some: tuple, rest: tuple, message: str):
    pair = write_list(tmp_path / "some.txt", names(*some)), write_list(tmp_path / "rest.txt", names(*rest))
    with pytest.raises(DataError, match=message):
        few_labels(voc, *pair)


def test_unlabelled_images_of_test_are_noted(tmp_path: Path):
    root = voc_tree(tmp_path / "set")
    write_picture(root / "JPEGImages" / "t0.jpg")
    (root / "ImageSets" / "Segmentation" / "test.txt").write_text("t0\n")
    (tmp_path / "unlabeled.txt").write_text("JPEGImages/t0.jpg\n")
    few = few_labels(open_source(root), "2", str(tmp_path / "unlabeled.txt"))
    assert few.notes[-1] == "unlabelled and test share images, so test scores flatter: t0"


@pytest.mark.parametrize(("original", "part"), [(0, "labelled"), (13, "val")])
def test_copies_elsewhere_are_found_by_content(voc: Source, tmp_path: Path, original: int, part: str):
    some = write_list(tmp_path / "some.txt", names(0, 1))
    (tmp_path / "extra").mkdir()
    write_picture(tmp_path / "extra" / "fresh.png")
    assert len(few_labels(voc, some, str(tmp_path / "extra")).items("unlabelled")) == 1
    source = voc.root / "JPEGImages" / f"{names(original)[0]}.jpg"
    shutil.copy(source, tmp_path / "extra" / "renamed.jpg")
    with pytest.raises(
        DataError, match=rf"that are not {part} as well; got .*renamed\.jpg \(a copy of .*{source.name}"
    ):
        few_labels(voc, some, str(tmp_path / "extra"))
    (tmp_path / "extra" / "renamed.jpg").unlink()
    (tmp_path / "extra" / "link.jpg").symlink_to(source)
    with pytest.raises(DataError, match=f"that are not {part} as well; got {names(original)[0]}"):
        few_labels(voc, some, str(tmp_path / "extra"))


@pytest.mark.usefixtures("published")
def test_protocols_are_told_apart():
    fine = names(*range(4))
    assert protocol_of(fine, fine) == "classic"
    assert protocol_of(names(0, 1, 2, 3, 7, 8), fine) == "priority"
    assert protocol_of(names(0, 5, 6, 7, 8, 9), fine) == "blended"
    assert protocol_of(names(*range(1, 9)), fine) == "blended"
    assert protocol_of(names(0, 1, 2), fine) == "own"
    for mixed, known in ((names(0, 1, 2, 7), r"4 \(classic\)"), (names(0, 1, *range(5, 9)), r"4 \(prio.* or 1 \(blen")):
        with pytest.raises(DataError, match=rf"mixes protocols: expected {known}.* among {len(mixed)}; got [23]\."):
            protocol_of(mixed, fine)


def test_the_published_counts():
    fine = [f"f{n}" for n in range(1464)]
    coarse = [f"c{n}" for n in range(9118)]
    for count in (92, 183, 366, 732, 1464):
        assert protocol_of(fine[:count], fine) == "classic"
    for count, among in ((662, 662), (1323, 1323), (2646, 1464)):
        assert protocol_of(fine[:among] + coarse[: count - among], fine) == "priority"
    for count, among in ((662, 93), (1323, 193), (2646, 388), (5291, 700)):
        assert protocol_of(fine[:among] + coarse[: count - among], fine) == "blended"


@pytest.mark.usefixtures("published")
def test_lists_are_held_to_their_protocol(voc: Source, tmp_path: Path):
    blended = write_list(tmp_path / "blended" / "labeled.txt", names(0, 5, 6, 7, 8, 9))
    write_list(tmp_path / "blended" / "unlabeled.txt", names(1, 2, 3, 4, 10, 11))
    few = few_labels(voc, blended)
    assert few.protocol == few_labels(voc, blended, protocol="blended").protocol == "blended"
    assert "protocol of the labelled part: blended" in few.notes
    with pytest.raises(DataError, match=r"of protocol 'classic'; got 6 images, from .*, which are 'blended'\. Name"):
        few_labels(voc, blended, protocol="classic")
    with pytest.raises(DataError, match=r"of protocol 'classic'; got 4 images, chosen out of 12 .*'own'"):
        few_labels(voc, "4", protocol="classic")
    with pytest.raises(DataError, match=r"protocol: expected classic, blended, priority, own; got 'mixed'\. Choose"):
        few_labels(voc, blended, protocol="mixed")
    mixed = write_list(tmp_path / "mixed.txt", names(0, 1, *range(5, 9)))
    with pytest.raises(DataError, match="the labelled list mixes protocols"):
        few_labels(voc, mixed)
    assert few_labels(voc, mixed, protocol="own").protocol == "own"


@pytest.mark.usefixtures("published")
def test_published_parts_are_the_whole_of_train(voc: Source, tmp_path: Path):
    classic = write_list(tmp_path / "labeled.txt", names(0, 1, 2, 3))
    part = write_list(tmp_path / "part.txt", names(*range(4, 11)))
    with pytest.raises(
        DataError, match=r"together the 12 of train, as published; got 4 \+ 7 others \(from .*part\.txt"
    ):
        few_labels(voc, classic, part)
    assert len(few_labels(voc, classic, part, protocol="own").items("unlabelled")) == 7
    assert few_labels(voc, classic).protocol == "classic"


def test_cityscapes_parts_are_the_whole_of_train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(labelled, "PUBLISHED_CITYSCAPES", (2,))
    source = open_source(cityscapes_tree(tmp_path / "set"))
    few = few_labels(source, "2")
    write_split_lists(few, tmp_path / "lists")
    listed = str(tmp_path / "lists" / "labeled.txt")
    assert few_labels(source, listed).splits == few.splits
    lines = (tmp_path / "lists" / "unlabeled.txt").read_text().splitlines(keepends=True)
    (tmp_path / "part.txt").write_text("".join(lines[1:]))
    with pytest.raises(DataError, match=r"together the 6 of train, as published; got 2 \+ 3 others"):
        few_labels(source, listed, str(tmp_path / "part.txt"))
    assert len(few_labels(source, "2", str(tmp_path / "part.txt")).items("unlabelled")) == 3  # chosen here: no list


def test_lists_that_are_written_read_the_same(voc: Source, tmp_path: Path):
    for name in ("a", "b c"):
        write_picture(tmp_path / "extra" / f"{name}.png", seed=len(name))
    few = few_labels(voc, "1/4", str(tmp_path / "extra"))
    folder = write_split_lists(few, tmp_path / "lists")
    assert sorted(path.name for path in folder.iterdir()) == ["labeled.txt", "split.json", "unlabeled.txt", "val.txt"]
    first = few.items("train")[0].id
    assert (folder / "labeled.txt").read_text().splitlines()[0] == (
        f"JPEGImages/{first}.jpg SegmentationClassAug/{first}.png"
    )
    assert (folder / "unlabeled.txt").read_text().splitlines() == [
        str(tmp_path / "extra" / "a.png"),
        str(tmp_path / "extra" / "b c.png"),
    ]
    assert few_labels(voc, str(folder / "labeled.txt")).splits == few.splits
    assert open_source(voc.root, val_list=folder / "val.txt").items("val") == few.items("val")
    facts = json.loads((folder / "split.json").read_text())
    assert facts["counts"] == {"labeled": 3, "unlabeled": 2, "val": 3}
    assert (facts["seed"], facts["protocol"]) == (0, "own")
    assert facts["sha256"]["labeled"] == sha256("\n".join(sorted(ids(few, "train"))).encode()).hexdigest()


def test_names_with_spaces_are_written_with_a_tab(tmp_path: Path):
    root = write_folder(tmp_path / "set", n=10)
    for folder in ("images", "masks"):
        for path in list((root / folder).iterdir()):
            path.rename(path.with_name(f"a {path.name}"))
    source = open_source(root)
    few = few_labels(source, "1/2")
    folder = write_split_lists(few, tmp_path / "lists")
    assert all(line.count("\t") == 1 for line in (folder / "labeled.txt").read_text().splitlines())
    assert few_labels(source, str(folder / "labeled.txt")).splits == few.splits


def test_other_lists_are_not_overwritten(voc: Source, tmp_path: Path):
    folder = write_split_lists(few_labels(voc, "3"), tmp_path / "lists")
    before = (folder / "labeled.txt").read_text()
    write_split_lists(few_labels(voc, "3"), folder)
    with pytest.raises(DataError, match=r"labeled\.txt: expected no such file, or the same list; got another"):
        write_split_lists(few_labels(voc, "4"), folder)
    assert (folder / "labeled.txt").read_text() == before
    with pytest.raises(DataError, match="split 'unlabelled'; got none"):
        write_split_lists(voc, tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_masks_are_read_as_the_source_reads_them(tmp_path: Path):
    source = open_source(write_folder(tmp_path, n=4, values=(0, 255)))
    assert source.relabel == {255: 1}
    assert classes_held(source, source.items("train")) == [{0, 1}] * 3
    assert np.array_equal(source.read_mask(source.items("train")[0]), striped(0, 1))


@needs_data
def test_real_lists():
    source = open_source(DATA / "camvid")
    parts = {share: few_labels(source, share) for share in ("1/4", "1/8", "1/16")}
    counts = {share: (len(few.items("train")), len(few.items("unlabelled"))) for share, few in parts.items()}
    assert counts == {"1/4": (92, 275), "1/8": (46, 321), "1/16": (23, 344)}
    labelled_ids = [set(ids(few, "train")) for few in parts.values()]
    assert labelled_ids[2] < labelled_ids[1] < labelled_ids[0]
    for few in parts.values():
        assert not set(ids(few, "train")) & set(ids(few, "unlabelled"))
        assert "labelled part holds all 11 classes" in few.notes
    chosen = few_labels(source, "23")
    assert (len(chosen.items("train")), chosen.seed) == (23, 0)
    assert "labelled part holds all 11 classes" in chosen.notes
