"""Labelled images only: what every method of few labels is measured against."""

from delineate.semi.method import Method


class Supervised(Method):
    """The labelled loss alone.

        loss = supervised

    Train it with as many steps, crops and augmentations as the method it stands beside; unlabelled images are not
    read. Its epochs have as many steps as theirs: one pass over the unlabelled images, of which it sees none.

    Use for: the baseline, without which no method of few labels can be judged.
    """

    def __init__(self) -> None:
        super().__init__(scale=1.0)
