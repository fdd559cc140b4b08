"""Pictures of the worst cases: outlines of truth and prediction, and where they differ.

Blue belongs to the truth, orange to the prediction, light grey to both; these three are told apart with any colour
vision. A volume is shown by its axial slice with the most errors and by a projection along the body axis, anterior up
and the right of the patient (R) on the left. Only what is drawn is kept of a case: memory does not grow with the cases.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import nibabel
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from delineate.evaluation.cases import Case
from delineate.metrics import INSTANCE, ClassScores

BLUE, ORANGE, BOTH, DARK = (86, 180, 233), (230, 159, 0), (205, 205, 205), (24, 24, 24)
LONGEST = 420
"""Pixels of the longer side of a panel."""
MARGIN, LINE = 10, 20
RANKED = ("dice", "lesion_f1")
"""The values by which cases are ranked, lowest first."""


@dataclass(frozen=True)
class View:
    """What is drawn of one class of one case: planes (rows, columns) in display order.

    Args:
        caption: case, class, scores and where the plane lies.
        sides: height and width of a pixel, mm.
        truth: bool.
        prediction: bool.
        image: float 0..1, None without an image.
        through: projections of truth and prediction, of a volume.
        sided: whether the left of the plane is known to be the right of the patient.
    """

    caption: str
    sides: tuple[float, float]
    truth: np.ndarray
    prediction: np.ndarray
    image: np.ndarray | None = None
    through: tuple[np.ndarray, np.ndarray] | None = None
    sided: bool = False


class Worst:
    """The worst cases of each class so far, by the lowest Dice and by the lowest lesion F1.

    Perfect cases are never among them; of equal cases that with more wrong voxels comes first.

    Args:
        count: cases kept of each class and ranking; 0 keeps none.
        hd_key: of the distance in the caption; see `Conventions.hd_key`.
    """

    def __init__(self, count: int, hd_key: str = "hd95"):
        self.count, self.hd_key = count, hd_key
        self._ranks: dict[tuple[str, str], list[tuple[float, int, str]]] = {}
        self._views: dict[tuple[str, str], View] = {}

    def add(self, case: Case, label: int, name: str, scores: ClassScores, ignore_index: int | None) -> None:
        """Take a class of a case into account; its image is read only where it is among the worst so far."""
        values = {key: scores.values.get(key) for key in RANKED}
        imperfect = {key: value for key, value in values.items() if value is not None and value < 1}
        if not imperfect or not self.count:
            return
        truth, prediction = case.truth == label, case.prediction == label
        if ignore_index is not None:
            prediction &= case.truth != ignore_index
        fewer = -int(np.count_nonzero(truth != prediction))
        for key, value in imperfect.items():
            ranks = self._ranks.setdefault((name, key), [])
            ranks.append((value, fewer, case.id))
            ranks.sort()
            del ranks[self.count :]
        held = {(other, row[2]) for (other, _), ranks in self._ranks.items() for row in ranks}
        if (name, case.id) in held:
            self._views[name, case.id] = view(case, truth, prediction, self._caption(case, name, scores))
        self._views = {key: found for key, found in self._views.items() if key in held}

    def __len__(self) -> int:
        """Pictures to be drawn."""
        return len(self._views)

    def save(self, folder: Path) -> list[str]:
        """Draw them into a folder as `CLASS-RANK-CASE.png`, worst Dice first; returns the names."""
        names = []
        for name in dict.fromkeys(name for name, _ in self._ranks):
            cases = dict.fromkeys(row[2] for key in RANKED for row in self._ranks.get((name, key), ()))
            for rank, case in enumerate(cases, start=1):
                names.append(f"{quote(name, safe=' ')}-{rank}-{case}.png")
                folder.mkdir(parents=True, exist_ok=True)
                draw(self._views[name, case]).save(folder / names[-1])
        return names

    def _caption(self, case: Case, name: str, scores: ClassScores) -> str:
        instances = INSTANCE[case.truth.ndim]
        shown = {"dice": "Dice", "lesion_f1": f"{instances} F1", self.hd_key: self.hd_key.upper()}
        values = ((word, scores.values.get(key)) for key, word in shown.items())
        return f"{case.id}, {name}: " + ", ".join(f"{word} {value:.3g}" for word, value in values if value is not None)


def view(case: Case, truth: np.ndarray, prediction: np.ndarray, caption: str) -> View:
    """The planes of one class of a case; `truth` and `prediction` are bool (*S)."""
    image = None if case.image is None else case.image()
    if truth.ndim == 2:
        return View(caption, (case.spacing[0], case.spacing[1]), truth, prediction, _stretched(image))
    turn = np.array([[0, 1], [1, 1], [2, 1]]) if case.affine is None else nibabel.io_orientation(case.affine)
    truth, prediction = (nibabel.apply_orientation(volume, turn) for volume in (truth, prediction))
    sides = dict(zip(turn[:, 0].astype(int).tolist(), case.spacing, strict=True))
    wrong, marked = truth != prediction, truth | prediction
    level = int((wrong if wrong.any() else marked).sum((0, 1)).argmax())
    plane = None if image is None else nibabel.apply_orientation(image, turn)[:, :, level]
    return View(
        f"{caption}; slice {level + 1} of {truth.shape[2]} from below",
        (sides[1], sides[0]),
        _upright(truth[:, :, level]),
        _upright(prediction[:, :, level]),
        None if plane is None else _stretched(_upright(plane)),
        (_upright(truth.max(2)), _upright(prediction.max(2))),
        case.affine is not None,
    )


def draw(shown: View) -> Image.Image:
    """The panels of a view side by side: outlines, errors and, of a volume, its projection; a caption and a legend."""
    truth, prediction = (_resized(mask, shown.sides) for mask in (shown.truth, shown.prediction))
    base = np.full((*truth.shape, 3), DARK, np.uint8)
    if shown.image is not None:
        base[:] = (_resized(shown.image, shown.sides) * 255).astype(np.uint8)[..., None]
    panels = [("outlines", _outlined(base, truth, prediction)), ("errors", _filled(base // 2, truth, prediction))]
    if shown.through is not None:
        masks = [_resized(mask, shown.sides) for mask in shown.through]
        panels.append(("projection", _filled(np.full_like(base, DARK), *masks)))
    return _composed(shown.caption, panels, shown.sided)


def _composed(caption: str, panels: Sequence[tuple[str, np.ndarray]], sided: bool) -> Image.Image:
    font, (height, width) = ImageFont.load_default(13), panels[0][1].shape[:2]
    total = max(MARGIN + len(panels) * (width + MARGIN), 2 * MARGIN + int(max(font.getlength(caption), 330)))
    canvas = Image.new("RGB", (total, height + 3 * LINE + 2 * MARGIN), "white")
    pen = ImageDraw.Draw(canvas)
    pen.text((MARGIN, MARGIN // 2), caption, fill="black", font=font)
    for index, (title, panel) in enumerate(panels):
        left = MARGIN + index * (width + MARGIN)
        pen.text((left, MARGIN // 2 + LINE), title, fill="black", font=font)
        canvas.paste(Image.fromarray(panel), (left, MARGIN // 2 + 2 * LINE))
        for side, place, anchor in (("R", left + 4, "lm"), ("L", left + width - 4, "rm")) if sided else ():
            middle = MARGIN // 2 + 2 * LINE + height // 2
            pen.text((place, middle), side, "white", font, anchor, stroke_width=1, stroke_fill="black")
    left, top = MARGIN, height + 2 * LINE + MARGIN
    for colour, word in ((BLUE, "truth, missed"), (ORANGE, "prediction, false"), (BOTH, "both")):
        pen.rectangle((left, top + 3, left + 12, top + 15), fill=colour, outline="black")
        pen.text((left + 18, top), word, fill="black", font=font)
        left += 36 + int(font.getlength(word))
    return canvas


def _upright(plane: np.ndarray) -> np.ndarray:
    """A plane (right, anterior) as rows from anterior to posterior and columns from right to left."""
    return plane[::-1, ::-1].T


def _stretched(image: np.ndarray | None) -> np.ndarray | None:
    """Intensities from the 1st to the 99th percentile as 0..1."""
    if image is None:
        return None
    low, high = np.percentile(image, (1, 99))
    return np.clip((image - low) / max(high - low, 1e-12), 0, 1)


def _resized(plane: np.ndarray, sides: tuple[float, float]) -> np.ndarray:
    """A plane with its longer side at `LONGEST` and true proportions, by nearest neighbour."""
    lengths = np.array(plane.shape) * sides
    rows, columns = np.maximum(1, np.rint(lengths / lengths.max() * LONGEST)).astype(int)
    picked = (np.arange(n) * m // n for n, m in zip((rows, columns), plane.shape, strict=True))
    return plane[np.ix_(*picked)]


def _edge(mask: np.ndarray) -> np.ndarray:
    """The pixels of a mask within two pixels of its outside."""
    inner = np.pad(mask, 2, constant_values=True)
    for axis in (0, 1):
        inner = inner & np.roll(inner, 1, axis) & np.roll(inner, -1, axis)
        inner = inner & np.roll(inner, 1, axis) & np.roll(inner, -1, axis)
    return mask & ~inner[2:-2, 2:-2]


def _outlined(base: np.ndarray, truth: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    """Outlines on a picture; where they coincide the truth is dashed with the prediction."""
    panel, both = base.copy(), _edge(truth) & _edge(prediction)
    panel[_edge(truth)], panel[_edge(prediction)] = BLUE, ORANGE
    rows, columns = np.indices(truth.shape)
    panel[both & ((rows + columns) % 12 < 6)] = BLUE
    return panel


def _filled(base: np.ndarray, truth: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    panel = base.copy()
    panel[truth & prediction], panel[truth & ~prediction], panel[prediction & ~truth] = BOTH, BLUE, ORANGE
    return panel
