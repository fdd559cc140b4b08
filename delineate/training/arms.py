"""What is compared: one arm for every loss, or for every method and labelled share."""

import re
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

from delineate.data import Source, few_labels, find_problems, open_source, without_errors
from delineate.data.problems import OF_ONE_ITEM
from delineate.semi import parse_method
from delineate.training.run import loss_for
from delineate.training.settings import Settings


@dataclass(frozen=True, eq=False)
class Arm:
    """One thing compared, trained with every seed.

    Args:
        name: as reports show it.
        loss: expression of the loss, of few labels of the labelled term.
        settings: of its runs.
        source: its data.
    """

    name: str
    loss: str
    settings: Settings
    source: Source


def open_data(data: str, settings: Settings) -> Source:
    """The data set with the splits that settings name."""
    source = open_source(data, settings.train_list, settings.val_list)
    source = readable(source) if settings.bad_images == "skip" else source
    if settings.semi is None:
        return source
    return few_labels(source, str(settings.labeled), settings.unlabeled, settings.protocol)


def readable(source: Source) -> Source:
    """The source without the items that cannot be used, each named in its notes; all files are read for it."""
    bad = [problem for problem in find_problems(source) if problem.kind in OF_ONE_ITEM and problem.severity == "error"]
    notes = tuple(f"left out of {problem.split}: {problem.sentence}" for problem in bad)
    return replace(without_errors(source, bad), notes=source.notes + notes) if bad else source


def arms_of(
    data: str, losses: list[str], settings: Settings, semi: list[str] | None = None, labeled: list[str] | None = None
) -> list[Arm]:
    """Every loss with every method and every labelled share, each tried out.

    Args:
        data: folder of the data set.
        losses: expressions.
        settings: what all have in common.
        semi: methods of few labels; None: all train images are labelled.
        labeled: shares or lists of labelled images, with `semi`.

    Raises:
        ValueError: for an expression or a method that cannot be read or comes twice, and for splits of different
            protocols, whose results belong into different tables.
    """
    if (semi is None) != (labeled is None):
        raise ValueError("--semi, --labeled: expected both, as in --semi supervised dssn --labeled 1/8; got one alone.")
    if not losses:
        raise ValueError('--losses: expected one expression or more, such as "Dice + CE"; got none.')
    kinds = [replace(settings, semi=m, labeled=share) for share, m in product(labeled or [], semi or [])] or [settings]
    sources: dict[Any, Source] = {}
    arms = []
    for kind, loss in product(kinds, losses):
        if kind.labeled not in sources:
            sources[kind.labeled] = open_data(data, kind)
        name = f"{kind.semi}, {kind.labeled}" + (f", {loss}" if len(losses) > 1 else "") if kind.semi else loss
        arms.append(Arm(name, loss, kind, sources[kind.labeled]))
    _check_different(arms)
    protocols = {str(source.protocol) for source in sources.values()}
    if len(protocols) > 1:
        raise ValueError(
            f"--labeled: expected splits of one protocol in one comparison; got {', '.join(sorted(protocols))}. Their "
            "labelled images differ in kind: compare each by itself."
        )
    return arms


def folder_names(arms: list[Arm]) -> list[str]:
    """A folder for each arm, numbered where names alone would be alike."""
    names = [re.sub(r"[^a-z0-9.]+", "-", arm.name.lower()).strip("-") for arm in arms]
    if len(set(names)) < len(names):
        names = [f"{number}-{name}" for number, name in enumerate(names, start=1)]
    return names


def few_labels_grid(arms: list[Arm]) -> dict[str, Any] | None:
    """Methods and shares of a comparison of few labels as result files hold them; None for one of losses alone."""
    if arms[0].settings.semi is None:
        return None
    return {
        "methods": list(dict.fromkeys(str(arm.settings.semi) for arm in arms)),
        "labeled": list(dict.fromkeys(str(arm.settings.labeled) for arm in arms)),
        "labelled_images": {str(arm.settings.labeled): len(arm.source.items("train")) for arm in arms},
        "unlabelled_images": {str(arm.settings.labeled): len(arm.source.items("unlabelled")) for arm in arms},
        "protocol": arms[0].source.protocol,
        "arms": {arm.name: [arm.settings.semi, arm.settings.labeled, arm.loss] for arm in arms},
    }


def _check_different(arms: list[Arm]) -> None:
    same: dict[tuple[Any, ...], Arm] = {}
    for arm in arms:
        meaning = (loss_for(arm.loss, arm.source).expression(), arm.settings.labeled)
        if arm.settings.semi:
            meaning += (parse_method(arm.settings.semi).meaning(),)
        if (other := same.get(meaning)) is not None:
            if other.loss == arm.loss and other.settings.semi != arm.settings.semi:
                raise ValueError(
                    f'--semi: "{other.settings.semi}" and "{arm.settings.semi}" are the same method. Name each once.'
                )
            if arm.settings.semi and other.loss == arm.loss:
                raise ValueError(f"--semi, --labeled: {arm.name} comes twice. Name each once.")
            raise ValueError(f'--losses: "{other.loss}" and "{arm.loss}" are the same loss. Name each once.')
        same[meaning] = arm
