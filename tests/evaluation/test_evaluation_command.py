"""`delineate evaluate PREDICTIONS TRUTH`: the numbers, the files, and one line for each bad input."""

import csv
import gzip
import json
import struct

import nibabel
import numpy as np
import pytest
from PIL import Image

from delineate.cli import main
from delineate.evaluation import Worst
from delineate.metrics import case_scores

SPACING = (1.0, 1.5, 2.0)


def volume(path, labels, spacing=SPACING, affine=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    affine = np.diag([*spacing, 1.0]) if affine is None else affine
    nibabel.Nifti1Image(np.asarray(labels), affine).to_filename(path)


def picture(path, labels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(labels, np.uint8)).save(path)


def blobs():
    """Three lesions of 27, 8 and 1 voxels in 16^3."""
    labels = np.zeros((16, 16, 16), np.uint8)
    labels[1:4, 1:4, 1:4] = labels[8:10, 8:10, 8:10] = labels[14, 14, 2] = 1
    return labels


def found_partly():
    """The largest lesion moved by one, the middle one whole, the smallest missed, and a false one of 2 voxels."""
    labels = np.zeros((16, 16, 16), np.uint8)
    labels[2:5, 1:4, 1:4] = labels[8:10, 8:10, 8:10] = labels[12, 3, 12:14] = 1
    return labels


@pytest.fixture
def pair(tmp_path):
    """Two cases: `a` partly found, `b` missed."""
    for name, labels in (("a", found_partly()), ("b", np.zeros_like(blobs()))):
        volume(tmp_path / "pred" / f"{name}.nii.gz", labels)
        volume(tmp_path / "labelsTr" / f"{name}.nii.gz", blobs())
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": {"background": 0, "lesion": 1}}))
    return tmp_path


def evaluate(root, *options, pred="pred", truth="labelsTr"):
    main(["evaluate", str(root / pred), str(root / truth), "--out", str(root / "out"), *options])
    return json.loads((root / "out" / "metrics.json").read_text())["cases"]


def rows(root):
    with (root / "out" / "per_case.csv").open(newline="") as file:
        return {(row["case"], row["class"]): row for row in csv.DictReader(file)}


def test_a_row_per_case_and_class_equals_case_scores(pair):
    evaluate(pair)
    expected = case_scores(found_partly(), blobs(), ["background", "lesion"], spacing=SPACING)["lesion"].values
    row = rows(pair)["a", "lesion"]
    assert list(row)[:4] == ["case", "class", "truth_empty", "prediction_empty"]
    assert set(row) - set(list(row)[:4]) == set(expected)
    for key, value in expected.items():
        assert row[key] == "" if value is None else float(row[key]) == pytest.approx(value, abs=1e-6), key


def test_a_missed_structure_counts(pair, capsys):
    found = evaluate(pair)["classes"]["lesion"]
    dice = 2 * (18 + 8) / (36 + 27 + 10)
    assert found["metrics"]["dice"]["mean"] == pytest.approx(dice / 2, abs=1e-6)
    assert found["metrics"]["dice"]["n"] == found["metrics"]["hd95"]["n"] == found["cases"] == 2
    diagonal = np.linalg.norm(16 * np.array(SPACING))
    assert float(rows(pair)["b", "lesion"]["hd95"]) == pytest.approx(diagonal, abs=1e-5)
    assert found["one_empty"] == 1
    assert rows(pair)["b", "lesion"]["prediction_empty"] == "1"
    assert "in 1 of 2 cases only one of truth and prediction is empty" in capsys.readouterr().out


def test_pooled_lesions_and_recall_by_size(pair, capsys):
    found = evaluate(pair)["classes"]["lesion"]
    pooled = found["pooled"]
    assert (pooled["lesions"], pooled["found"], pooled["predicted_lesions"], pooled["false_positives"]) == (6, 2, 3, 1)
    assert pooled["sensitivity"] == pytest.approx(2 / 6, abs=1e-6)
    assert pooled["precision"] == pytest.approx(2 / 3, abs=1e-6)
    assert pooled["f1"] == pytest.approx(4 / 9, abs=1e-6)
    assert pooled["matched"] == 1  # the whole one; the moved one has an IoU of exactly 0.5
    assert pooled["pq"] == pytest.approx(1 / (3 / 2 + 6 / 2), abs=1e-6)
    bins = found["recall_by_size"]
    assert bins[0]["low"] == 3.0  # one voxel, mm^3
    assert bins[-1]["high"] == 27 * 3.0
    assert sum(size["lesions"] for size in bins) == 6
    assert sum(size["found"] for size in bins) == 2
    assert [size["recall"] for size in bins] == [0, 0.5, None, 0.5]
    assert "0/2 of 3 to 8.25; 1/2 of 8.25 to 24" in capsys.readouterr().out


def test_cases_without_truth_are_told_apart(tmp_path, capsys):
    empty = np.zeros((8, 8, 8), np.uint8)
    spot = empty.copy()
    spot[2:4, 2, 2] = spot[6, 6, 6] = 1
    for name, pred, truth in (("a", empty, empty), ("b", spot, empty), ("c", spot, spot)):
        volume(tmp_path / "pred" / f"{name}.nii.gz", pred, (1, 1, 2))
        volume(tmp_path / "labelsTr" / f"{name}.nii.gz", truth, (1, 1, 2))
    found = evaluate(tmp_path)["classes"]["foreground"]
    expected = {"cases": 2, "left_empty": 1, "specificity": 0.5, "false_positives": 2, "false_positive_volume": 6.0}
    assert found["empty_truth"] == expected
    assert found["metrics"]["dice"]["mean"] == pytest.approx(2 / 3, abs=1e-6)  # 1, 0 and 1
    assert found["metrics"]["dice"]["mean_where_true"] == 1
    assert found["metrics"]["lesion_sensitivity"]["n"] == 1
    said = "not in the truth of 2 of 3 cases; 1 of these left empty, for a Dice of 1; false lesions in the others: 2."
    assert f"foreground: {said} Dice of the cases with it: 1.000." in capsys.readouterr().out


def test_cases_that_are_all_without_truth(tmp_path, capsys):
    spot = np.eye(3)
    for name in "ab":
        picture(tmp_path / "pred" / f"{name}.png", spot)
        picture(tmp_path / "labels" / f"{name}.png", 0 * spot)
    evaluate(tmp_path, truth="labels")
    printed = capsys.readouterr().out
    assert (
        "- foreground: not in the truth of 2 of 2 cases; 0 of these left empty; false objects in the others: 2.\n"
        in printed
    )


def test_conventions_are_used_and_stated(pair, capsys):
    found = evaluate(pair, "--connectivity", "face", "--nsd_tolerance", "3", "--match", "iou", "--empty", "inf")
    stated = " ".join(found["conventions"])
    for words in ("6 neighbours", "within 3 mm", "infinite", "2000 draws", "Scored: lesion; not scored: background"):
        assert words in stated
    assert found["classes"]["lesion"]["pooled"]["found"] == 1
    assert found["classes"]["lesion"]["metrics"]["hd95"]["mean"] == "inf"
    assert found["classes"]["lesion"]["metrics"]["hd95"]["interval"] is None
    printed = capsys.readouterr().out
    assert all(line in printed for line in found["conventions"])
    assert "95 % interval" in printed


def test_files_are_paired_by_name_without_channel_number(tmp_path):
    volume(tmp_path / "pred" / "a_0000.nii.gz", blobs())
    volume(tmp_path / "labelsTr" / "a.nii", blobs())
    (tmp_path / "pred" / "plans.json").write_text("{}")
    assert evaluate(tmp_path)["classes"]["foreground"]["metrics"]["dice"]["mean"] == 1
    assert ("a", "foreground") in rows(tmp_path)


def test_two_files_of_any_name(pair):
    evaluate(pair, pred="pred/a.nii.gz", truth="labelsTr/b.nii.gz")
    assert list(rows(pair)) == [("b", "lesion")]
    assert 0 < float(rows(pair)["b", "lesion"]["dice"]) < 1


def test_labels_are_named_after_what_is_found(tmp_path):
    truth = np.zeros((8, 8, 8), np.uint8)
    truth[:2], truth[4:6] = 2, 4
    volume(tmp_path / "pred" / "a.nii.gz", np.where(truth == 2, 2, 0).astype(np.uint8))
    volume(tmp_path / "labelsTr" / "a.nii.gz", truth)
    found = evaluate(tmp_path)
    assert list(found["classes"]) == ["class_2", "class_4"]
    assert found["classes"]["class_4"]["metrics"]["dice"]["mean"] == 0
    assert any("class_2, class_4" in note for note in found["notes"])


def test_pictures_with_void_and_given_names(tmp_path, capsys):
    truth = np.zeros((12, 12))
    truth[2:6, 2:6], truth[8:, :], truth[0] = 1, 2, 255
    pred = np.where(truth == 255, 1, truth)
    picture(tmp_path / "pred" / "a.png", pred)
    picture(tmp_path / "labels" / "a.tif", truth)
    found = evaluate(tmp_path, "--spacing", "0.5", "2", "--classes", "sky", "car", "road", truth="labels")
    assert [found["classes"][name]["metrics"]["dice"]["mean"] for name in ("sky", "car", "road")] == [1, 1, 1]
    assert "value 255 of the truth is ignored" in found["notes"]
    assert "spacing 0.5 x 2" in found["notes"]
    assert "boundary_iou" in found["classes"]["car"]["metrics"]
    assert not [line for line in found["conventions"] if "lesion" in line.lower()]
    assert "objects found" in capsys.readouterr().out


def test_255_is_the_foreground_of_a_mask_that_holds_nothing_else(tmp_path):
    truth = np.zeros((8, 8))
    truth[:4] = 255
    picture(tmp_path / "pred" / "a.png", truth > 0)
    picture(tmp_path / "labels" / "a.png", truth)
    found = evaluate(tmp_path, truth="labels")
    assert found["classes"]["foreground"]["metrics"]["iou"]["mean"] == 1
    assert any("255 of the truth read as label 1" in note for note in found["notes"])


def test_a_class_that_no_case_holds_has_no_values(tmp_path):
    picture(tmp_path / "pred" / "a.png", np.eye(8))
    picture(tmp_path / "labels" / "a.png", np.eye(8))
    found = evaluate(tmp_path, "--classes", "background", "line", "fence", truth="labels")["classes"]
    assert found["line"]["metrics"]["dice"]["mean"] == 1
    assert found["fence"]["metrics"] == {}


def test_many_classes_are_shown_in_a_line_each(tmp_path, capsys):
    picture(tmp_path / "pred" / "a.png", np.arange(64).reshape(8, 8) // 11)
    picture(tmp_path / "labels" / "a.png", np.arange(64).reshape(8, 8) // 10)
    (tmp_path / "labels" / "classes.txt").write_text("\n".join("abcdefg"))
    found = evaluate(tmp_path, truth="labels")
    assert list(found["classes"]) == list("abcdefg")
    out = capsys.readouterr().out.splitlines()
    (line,) = [line for line in out if line.startswith(" b ")]
    assert f"{found['classes']['b']['metrics']['dice']['mean']:.2f}" in line


def test_the_next_folder_under_runs(pair, monkeypatch, capsys):
    monkeypatch.chdir(pair)
    for _ in range(2):
        main(["evaluate", "pred", "--worst", "0", "labelsTr"])
    assert sorted(path.name for path in (pair / "runs").iterdir()) == ["evaluate-pred-1", "evaluate-pred-2"]
    assert sorted(path.name for path in (pair / "runs/evaluate-pred-1").iterdir()) == ["metrics.json", "per_case.csv"]


def damage_header(path):
    content = bytearray(gzip.decompress(path.read_bytes()))
    struct.pack_into("<f", content, 76 + 8, 0.0)
    path.write_bytes(gzip.compress(bytes(content)))


def cut(path):
    path.write_bytes(path.read_bytes()[:-20])


def moved(path):
    affine = np.diag([*SPACING, 1.0])
    affine[0, 3] = 5
    volume(path, blobs(), affine=affine)


def noise(path):
    path.write_bytes(b"not a volume")


def several(path):
    picture(path.parent / "c.png", np.eye(4))


BAD = {
    "no prediction": (
        lambda p: (p / "pred/b.nii.gz").unlink(),
        [],
        ("pred", "none for b", "failure", "of these cases alone"),
    ),
    "no truth": (lambda p: (p / "labelsTr/a.nii.gz").unlink(), [], ("labelsTr", "none for a")),
    "shape": (lambda p: volume(p / "pred/b.nii.gz", blobs()[:12]), [], ("b.nii.gz", "(16, 16, 16)", "(12, 16, 16)")),
    "spacing": (lambda p: volume(p / "pred/b.nii.gz", blobs(), (1, 1, 1)), [], ("b.nii.gz", "1 x 1.5 x 2 mm")),
    "affine": (lambda p: moved(p / "pred/b.nii.gz"), [], ("b.nii.gz", "affine", "5 mm")),
    "cut short": (lambda p: cut(p / "labelsTr/b.nii.gz"), [], ("labelsTr/b.nii.gz", "cut short")),
    "cut prediction": (lambda p: cut(p / "pred/b.nii.gz"), [], ("pred/b.nii.gz", "cut short")),
    "not a volume": (lambda p: noise(p / "pred/b.nii.gz"), [], ("pred/b.nii.gz", "readable")),
    "no spacing": (lambda p: damage_header(p / "labelsTr/b.nii.gz"), [], ("labelsTr/b.nii.gz", "pixdim")),
    "label": (lambda p: volume(p / "pred/b.nii.gz", 3 * blobs()), [], ("b.nii.gz", "labels 0..1", "3")),
    "two kinds in one": (lambda p: several(p / "pred/a.nii.gz"), [], ("pred", "one kind")),
    "one name twice": (lambda p: volume(p / "pred/a.nii", blobs()), [], ("a.nii", "same name")),
    "spacing of volumes": (lambda p: None, ["--spacing", "2"], ("--spacing", "headers")),
    "one name": (lambda p: None, ["--classes", "lesion"], ("--classes", "two or more")),
    "connectivity": (lambda p: None, ["--connectivity", "26"], ("connectivity", "full")),
    "worst": (lambda p: None, ["--worst", "-1"], ("--worst",)),
    "data": (lambda p: None, ["--data", "x"], ("--data", "evaluate RUN")),
    "split": (lambda p: None, ["--split", "val"], ("--split", "evaluate RUN")),
}


def refused(capsys, *arguments):
    with pytest.raises(SystemExit) as stop:
        main(list(map(str, arguments)))
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("delineate: error: ")
    return line


@pytest.mark.parametrize(("harm", "options", "words"), BAD.values(), ids=BAD.keys())
def test_bad_input_is_one_line_and_nothing_is_written(harm, options, words, pair, capsys):
    harm(pair)
    before = sorted(pair.rglob("*"))
    line = refused(capsys, "evaluate", pair / "pred", pair / "labelsTr", "--out", pair / "out", *options)
    for word in words:
        assert word in line
    assert sorted(pair.rglob("*")) == before


def test_folders_that_cannot_be_paired(pair, capsys):
    out = ["--out", pair / "out"]
    assert "nothing is there" in refused(capsys, "evaluate", pair / "nowhere", pair / "labelsTr", *out)
    assert "Did you mean" in refused(capsys, "evaluate", pair / "pred", pair, *out)
    assert "one of each" in refused(capsys, "evaluate", pair / "pred/a.nii.gz", pair / "labelsTr", *out)
    picture(pair / "flat" / "a.png", np.eye(4))
    assert "volumes in one and pictures" in refused(capsys, "evaluate", pair / "flat", pair / "labelsTr", *out)
    assert "name the true ones too" in refused(capsys, "evaluate", pair / "pred")
    assert not (pair / "out").exists()


def test_nothing_but_background(tmp_path, capsys):
    picture(tmp_path / "a" / "a.png", np.zeros((4, 4)))
    assert "besides 0" in refused(capsys, "evaluate", tmp_path / "a", tmp_path / "a", "--out", tmp_path / "out")


def test_noise_is_named(pair, monkeypatch, capsys):
    monkeypatch.setattr("delineate.metrics.instance.MOST", 2)
    line = refused(capsys, "evaluate", pair / "pred", pair / "labelsTr", "--out", pair / "out")
    assert "case a, " in line
    assert "labelsTr/a.nii.gz: prediction: expected at most 2 connected components; got 3" in line
    assert not (pair / "out").exists()


def test_an_earlier_evaluation_is_never_overwritten(pair, capsys):
    evaluate(pair)
    before = (pair / "out/metrics.json").read_bytes()
    assert "new or empty" in refused(capsys, "evaluate", pair / "pred", pair / "labelsTr", "--out", pair / "out")
    assert (pair / "out/metrics.json").read_bytes() == before


def test_nothing_half_written(pair, monkeypatch):
    def fail(self, folder):
        folder.mkdir()
        raise RuntimeError("disk full")

    monkeypatch.setattr(Worst, "save", fail)
    before = sorted(pair.rglob("*"))
    with pytest.raises(RuntimeError, match="disk full"):
        evaluate(pair)
    assert sorted(pair.rglob("*")) == before
