"""Splits made by hash, and split lists."""

from pathlib import Path

import pytest
from data_files import write_folder, write_picture
from trees import voc_tree

from delineate.data import DataError, make_split, open_source, read_split_list

IDS = [f"case_{number}" for number in range(50)]


def test_split_is_complete_disjoint_and_of_the_asked_size():
    train, val = make_split(IDS)
    assert sorted(train + val) == sorted(IDS)
    assert (len(train), len(val)) == (40, 10)


def test_split_depends_on_the_seed_and_not_on_the_order():
    assert make_split(IDS) == make_split(IDS[::-1])
    assert make_split(IDS) != make_split(IDS, seed=1)


def test_a_larger_fraction_only_adds_to_val():
    assert set(make_split(IDS, 0.1)[1]) < set(make_split(IDS, 0.4)[1])


def test_few_ids():
    assert make_split([]) == ((), ())
    assert make_split(["a"]) == (("a",), ())
    assert [len(part) for part in make_split(["a", "b"])] == [1, 1]
    assert [len(part) for part in make_split(["a", "b"], 0.9)] == [1, 1]


def test_bad_arguments():
    with pytest.raises(DataError, match="expected different ids; twice: a"):
        make_split(["a", "b", "a"])
    with pytest.raises(DataError, match="expected `fraction` between 0 and 1; got 20"):
        make_split(IDS, 20)


def test_split_list(tmp_path: Path):
    write_folder(tmp_path)
    path = tmp_path / "labeled.txt"
    path.write_text("images/p1.png masks/p1.png\n\nimages/p0.png\tmasks/p0.png\n")
    items = read_split_list(path, tmp_path)
    assert [item.id for item in items] == ["p1", "p0"]
    assert items[0].image == tmp_path / "images" / "p1.png"
    assert items[0].mask == tmp_path / "masks" / "p1.png"


def test_names_with_spaces_need_a_tab(tmp_path: Path):
    write_folder(tmp_path)
    (tmp_path / "images" / "p1.png").rename(tmp_path / "images" / "p 1.png")
    path = tmp_path / "labeled.txt"
    path.write_text("images/p 1.png\tmasks/p1.png\n")
    assert read_split_list(path, tmp_path)[0].id == "p 1"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("\nimages/p0.png\n", r"labeled\.txt, line 2: expected `image mask`; got 'images/p0\.png'.*tab"),
        ("images/p9.png masks/p9.png", r"labeled\.txt, line 1: expected a file; .*p9\.png is missing.*relative to"),
        ("images/p0.png masks/p0.png\n" * 2, r"labeled\.txt, line 2: expected each image once; p0 came before"),
        ("\n", r"labeled\.txt: expected lines `image mask`; got an empty list"),
    ],
)
def test_bad_lists(tmp_path: Path, text: str, message: str):
    path = write_folder(tmp_path) / "labeled.txt"
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        read_split_list(path, tmp_path)


def test_missing_list(tmp_path: Path):
    with pytest.raises(DataError, match=r"gone\.txt: expected a readable UTF-8 text file.*Check the path"):
        read_split_list(tmp_path / "gone.txt", tmp_path)


def test_unlabelled_lists_need_no_masks(tmp_path: Path):
    write_folder(tmp_path)
    (tmp_path / "images" / "p3.png").rename(tmp_path / "images" / "p 3.png")
    path = tmp_path / "unlabeled.txt"
    path.write_text("images/p1.png\nimages/p2.png masks/none.png\nimages/p 3.png\n")
    items = read_split_list(path, tmp_path, "dropped")
    assert [(item.id, item.mask) for item in items] == [("p1", None), ("p2", None), ("p 3", None)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("images/p1.png masks/p1.png 3", r"line 1: expected `image` or `image mask`; got .* with a tab between them"),
        ("images/p1.png\nimages/p9.png", r"line 2: expected a file; .*images/p9\.png is missing\."),
        ("\n", r"expected lines `image`; got an empty list"),
    ],
)
def test_bad_unlabelled_lists(tmp_path: Path, text: str, message: str):
    path = write_folder(tmp_path) / "unlabeled.txt"
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        read_split_list(path, tmp_path, "dropped")


def test_ids_alone_are_items_of_the_data_set(tmp_path: Path):
    root = voc_tree(tmp_path / "set", train=4, val=1)
    known = open_source(root).items("train")
    path = tmp_path / "ids.txt"
    path.write_text("2008_000002\n2008_000000\n")
    assert read_split_list(path, root, known=known) == (known[2], known[0])
    assert [item.mask for item in read_split_list(path, root, "dropped", known)] == [None, None]
    path.write_text("2008_000002\n2008_000009\n")
    with pytest.raises(DataError, match=r"ids\.txt, line 2: expected paths or the id .*; no id is '2008_000009'\."):
        read_split_list(path, root, known=known)


def test_a_mask_is_looked_for_beside_the_folder_that_is_named(tmp_path: Path):
    root = voc_tree(tmp_path / "SegmentationClass", train=4, val=1, fine=1)
    path = tmp_path / "labeled.txt"
    path.write_text("".join(f"JPEGImages/2008_00000{n}.jpg SegmentationClass/2008_00000{n}.png\n" for n in range(3)))
    folders = [item.mask.parent for item in read_split_list(path, root)]
    assert folders == [root / "SegmentationClass", root / "SegmentationClassAug", root / "SegmentationClassAug"]
    (root / "SegmentationClassAug" / "2008_000002.png").unlink()
    with pytest.raises(DataError, match=r"line 3: expected a file; .*SegmentationClass/2008_000002\.png is missing"):
        read_split_list(path, root)


def test_images_of_one_name_are_told_apart(tmp_path: Path):
    root = write_folder(tmp_path / "set", n=2)
    for folder in ("one/extra", "two/extra"):
        write_picture(tmp_path / folder / "p0.png")
    path = tmp_path / "unlabeled.txt"
    path.write_text("../one/extra/p0.png\n../two/extra/p0.png\n")
    known = [item for items in open_source(root).splits.values() for item in items]
    items = read_split_list(path, root, "dropped", known)
    assert [item.id for item in items] == ["extra_p0", "two_extra_p0"]


def test_images_of_one_id_are_not_one_split(tmp_path: Path):
    for split in ("train", "val"):
        write_folder(tmp_path / "set" / split, n=2)
    path = tmp_path / "labeled.txt"
    path.write_text("train/images/p0.png train/masks/p0.png\nval/images/p0.png val/masks/p0.png\n")
    with pytest.raises(DataError, match=r"line 2: expected images of different names; p0 came before\. Rename"):
        open_source(tmp_path / "set", train_list=path)
