"""Splits made by hash, and split lists."""

from pathlib import Path

import pytest
from data_files import write_folder

from delineate.data import DataError, make_split, read_split_list

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
