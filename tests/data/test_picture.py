"""Pictures and masks as they come: modes, broken files, colours."""

from pathlib import Path

import numpy as np
import pytest
from data_files import striped, write_folder, write_mask, write_picture
from PIL import Image

from delineate.data import DataError, Item, open_source
from delineate.data.picture import pictures, read_image, read_labels, read_palette, read_size, voc_palette


def test_every_kind_of_picture_becomes_rgb(tmp_path: Path):
    grey = Image.fromarray(np.array([[0, 200]], dtype=np.uint8))
    for mode in ("L", "P", "1", "RGB", "RGBA", "CMYK", "LA"):
        path = tmp_path / f"{mode}.{'tif' if mode == 'CMYK' else 'png'}"
        grey.convert(mode).save(path)
        image = read_image(path)
        assert image.dtype == np.uint8
        assert image.shape == (1, 2, 3)
        assert image[0, 0].tolist() == [0, 0, 0]


def test_transparent_palette_is_read_without_a_warning(tmp_path: Path):
    image = Image.fromarray(np.array([[0, 1]], dtype=np.uint8)).convert("P")
    image.save(tmp_path / "a.png", transparency=bytes([0, 128]))
    assert read_image(tmp_path / "a.png").shape == (1, 2, 3)


def test_deep_grey_is_refused_rather_than_clipped(tmp_path: Path):
    Image.fromarray(np.full((4, 4), 4000, dtype=np.uint16)).save(tmp_path / "deep.png")
    with pytest.raises(DataError, match=r"deep\.png: expected 8 bits.*I;16.*Rescale"):
        read_image(tmp_path / "deep.png")


def test_truncated_jpeg_is_named(tmp_path: Path):
    path = write_picture(tmp_path / "cut.jpg", (64, 64))
    path.write_bytes(path.read_bytes()[:800])
    with pytest.raises(DataError, match=r"cut\.jpg: expected a readable picture; .*restore it"):
        read_image(path)


def test_a_file_of_another_kind_and_a_missing_one_are_named(tmp_path: Path):
    (tmp_path / "text.png").write_text("not a picture")
    for read in (read_image, read_size, read_labels):
        with pytest.raises(DataError, match=r"text\.png: expected a readable picture"):
            read(tmp_path / "text.png")
        with pytest.raises(DataError, match=r"gone\.png: expected a readable picture"):
            read(tmp_path / "gone.png")


def test_masks_of_any_lossless_kind_keep_their_values(tmp_path: Path):
    labels = striped(0, 1, 255)
    assert read_labels(write_mask(tmp_path / "grey.png", labels)).tolist() == labels.tolist()
    assert read_labels(write_mask(tmp_path / "palette.png", labels, voc_palette(256))).tolist() == labels.tolist()
    Image.fromarray(np.repeat(labels[..., None], 3, axis=2)).save(tmp_path / "rgb.png")
    assert read_labels(tmp_path / "rgb.png").tolist() == labels.tolist()
    Image.fromarray(labels == 1).save(tmp_path / "bits.png")
    bits = read_labels(tmp_path / "bits.png")
    assert bits.dtype == np.uint8
    assert bits.tolist() == (labels == 1).astype(int).tolist()
    Image.fromarray(labels.astype(np.uint16) * 4).save(tmp_path / "deep.png")
    assert read_labels(tmp_path / "deep.png").max() == 1020


def test_colours_floats_and_jpegs_are_no_masks(tmp_path: Path):
    with pytest.raises(DataError, match=r"rgb\.png: expected one class number per pixel.*Map every colour"):
        read_labels(write_picture(tmp_path / "rgb.png"))
    with pytest.raises(DataError, match=r"m\.jpg: expected a lossless mask.*PNG"):
        read_labels(write_picture(tmp_path / "m.jpg"))
    Image.fromarray(np.zeros((2, 2), dtype=np.float32)).save(tmp_path / "f.tif")
    with pytest.raises(DataError, match=r"f\.tif: expected whole labels.*8-bit PNG"):
        read_labels(tmp_path / "f.tif")


def test_mask_of_another_size_names_both_files(tmp_path: Path):
    source = open_source(write_folder(tmp_path))
    wrong = write_mask(tmp_path / "wrong.png", striped(0, 1, size=(10, 8)))
    with pytest.raises(
        DataError, match=r"wrong\.png: expected the size of its image p0\.png, \(8, 10\); got \(10, 8\)"
    ):
        source.read_mask(Item("p0", tmp_path / "images" / "p0.png", wrong))


def test_labels_out_of_range_name_the_file_the_values_and_the_remedy(tmp_path: Path):
    source = open_source(write_folder(tmp_path))
    wrong = write_mask(tmp_path / "wrong.png", striped(0, 1, 7, 255))
    with pytest.raises(DataError, match=r"wrong\.png: expected labels 0\.\.1; got 7, 255\. .*classes\.txt"):
        source.read_mask(Item("p0", tmp_path / "images" / "p0.png", wrong))


def test_an_item_without_a_mask_says_so(tmp_path: Path):
    source = open_source(write_folder(tmp_path))
    with pytest.raises(DataError, match=r"p0\.png: expected a mask; this item has none"):
        source.read_mask(Item("p0", tmp_path / "images" / "p0.png", None))


def test_two_files_of_one_stem_are_refused_and_hidden_files_passed_over(tmp_path: Path):
    write_picture(tmp_path / "a.png")
    (tmp_path / "._a.png").write_bytes(b"resource fork")
    (tmp_path / "Thumbs.db").write_bytes(b"")
    assert list(pictures(tmp_path)) == ["a"]
    write_picture(tmp_path / "a.JPG")
    with pytest.raises(DataError, match=r"a\.png: expected one file per name; a\.JPG.*Remove one"):
        pictures(tmp_path)


def test_palette_is_used_only_where_colours_can_be_told_apart(tmp_path: Path):
    ramp = np.repeat(np.arange(256)[:, None], 3, axis=1)
    assert read_palette(write_mask(tmp_path / "ramp.png", striped(0, 1), ramp), 2) is None
    assert read_palette(write_mask(tmp_path / "grey.png", striped(0, 1)), 2) is None
    stored = read_palette(write_mask(tmp_path / "voc.png", striped(0, 1), voc_palette(256)), 21)
    assert stored is not None
    assert np.array_equal(stored, voc_palette(21))
    assert voc_palette(256)[255].tolist() == [224, 224, 192]
    assert voc_palette(21)[20].tolist() == [0, 64, 128]
