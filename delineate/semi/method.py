"""The frame of all methods: one step over labelled and unlabelled images, as a table of streams says.

    loss = scale * (supervised + sum_i weight_i * pseudo_i + agree_weight * sum of agreements)

The student sees labelled images and weak views in one pass, in train mode on purpose: clean statistics for batch
normalisation. All strong views go through in a second pass. Labels come from the student's own logits of the weak
views, detached, or from the teacher, which looks at each weak view once; CutMix then mixes these logits as it mixed
the image, and what is kept is chosen after mixing.
"""

from collections.abc import Callable
from contextlib import nullcontext

import torch
from torch import Tensor, nn

from delineate.losses import Loss
from delineate.ops.ranks import share_of_ranks
from delineate.semi.agreement import logit_agreement
from delineate.semi.batch_norm import frozen_statistics
from delineate.semi.features import channel_dropout
from delineate.semi.mixing import MixPlan
from delineate.semi.network import Network
from delineate.semi.pseudo import check_pseudo, pseudo_label_loss
from delineate.semi.selectors import ClassMaxThreshold, FixedThreshold, NoSelection
from delineate.semi.streams import At, Found, Stream, Unlabelled
from delineate.semi.teacher import NORMS as TEACHER_NORMS
from delineate.semi.teacher import EMATeacher

Selector = FixedThreshold | ClassMaxThreshold | NoSelection
Supervised = Callable[[Tensor], dict[str, Tensor]]
"""The terms of the labelled loss by name, from the logits of the labelled images."""
AGREE_ON = ("same_content", "all")


class Method(nn.Module):
    """A way to train on labelled and unlabelled images; made ready by `attach` for a model.

    Args:
        streams: the table.
        selector: which pseudo-labels are kept.
        scale: factor of the whole loss.
        pseudo: loss of the pseudo-labels, built with ignore_index=-1; None is cross entropy.
        norm: what pseudo-label losses are divided by: all "valid" voxels, or those "kept".
        feature_dropout: share of the channels dropped in weak streams.
        decay: of the teacher; None: no teacher.
        teacher_norm: whether batch normalisation of the teacher uses "running" statistics or those of its "batch".
        strong_updates_bn: whether passes of strong views move the running statistics of the student.
        agree_weight: factor of the agreement of the two strong streams, and of the two weak ones; 0: none.
        agree_on: "same_content" compares voxels that hold the same content in both views; "all" compares all.
        warmup_iterations, warmup_epochs: while either lasts the teacher is the student, and streams labelled by it
            are left out.
    """

    def __init__(
        self,
        streams: tuple[Stream, ...] = (),
        *,
        selector: Selector | None = None,
        scale: float = 0.5,
        pseudo: Loss | None = None,
        norm: str = "valid",
        feature_dropout: float = 0.5,
        decay: float | None = None,
        teacher_norm: str = "running",
        strong_updates_bn: bool = True,
        agree_weight: float = 0.0,
        agree_on: str = "same_content",
        warmup_iterations: int = 0,
        warmup_epochs: int = 0,
    ):
        super().__init__()
        self.streams, self.selector, self.scale = streams, selector or NoSelection(), scale
        self.pseudo, self.norm, self.feature_dropout = pseudo, norm, feature_dropout
        self.decay, self.teacher_norm, self.strong_updates_bn = decay, teacher_norm, strong_updates_bn
        self.agree_weight, self.agree_on = agree_weight, agree_on
        self.warmup_iterations, self.warmup_epochs = warmup_iterations, warmup_epochs
        self.teacher: EMATeacher | None = None
        self._check()

    @property
    def name(self) -> str:
        """Of the class."""
        return type(self).__name__

    @property
    def strong(self) -> tuple[Stream, ...]:
        """The streams of strong views; the k-th sees view k."""
        return tuple(stream for stream in self.streams if stream.view == "strong")

    @property
    def weak(self) -> tuple[Stream, ...]:
        """The streams of the weak view with dropped features."""
        return tuple(stream for stream in self.streams if stream.view == "weak")

    def meaning(self) -> str:
        """Equal for methods that train alike, however they were written.

        >>> from delineate.semi import DSSN
        >>> DSSN(decay=0.996).meaning() == DSSN().meaning()
        True
        """
        known = {key: value for key, value in vars(self).items() if key[0] != "_"}
        options = {key: float(value) if type(value) is int else value for key, value in known.items()}
        for state in ("training", "teacher"):
            options.pop(state, None)
        return f"{self.name} {sorted(options.items())} {self.pseudo!r}"

    def attach(self, model: nn.Module, classes: int) -> None:
        """Make the method ready for a model.

        Raises:
            ValueError: for a model whose features cannot be perturbed, or too few classes for the agreement.
        """
        if self.weak:
            Network(model).check_halves()
        if self.agree_weight and classes < 3:
            raise ValueError(
                f"{self.name}: its agreement needs at least 3 classes, got {classes}: standardised two-class logits "
                f"keep only a sign. Use {self.name}(agree_weight=0), UniMatch or FixMatch."
            )
        if self.decay is not None:
            self.teacher = EMATeacher(model, self.decay, self.teacher_norm)

    def forward(
        self, student: Network, images: Tensor, unlabelled: Unlabelled | None, supervised: Supervised, at: At
    ) -> Found:
        """One step.

        Args:
            student: the network in training.
            images: labelled images (N, channels, *S).
            unlabelled: views of unlabelled images; may be None for a method without streams.
            supervised: the labelled loss.
            at: how far training is.
        """
        if unlabelled is None or not self.streams:
            logits = student(images)
            return Found({name: self.scale * term for name, term in supervised(logits).items()}, logits, {})
        logits, weak, dropped = self._weak_pass(student, images, unlabelled)
        plans = [MixPlan.of(unlabelled.boxes[:, k], _size(unlabelled.weak)) for k in range(len(self.strong))]
        strong = self._strong_pass(student, unlabelled, plans)
        sources = {"self": weak, "teacher": self._taught(unlabelled.weak)}
        terms, watched = dict(supervised(logits)), _disagreement(sources, unlabelled.valid)
        passes = [*zip(self.strong, strong, plans, strict=True), *((s, z, None) for s, z in dropped)]
        for stream, seen, plan in passes:
            source = sources[stream.labels]
            assert source is not None
            if stream.labels == "self" or not self.warm(at):
                moved = plan if plan and stream.mixed else _unmixed
                valid = moved(unlabelled.valid)
                loss, labels, keep = self.pseudo_loss(seen, moved(source), valid)
                terms[stream.name] = self.weight(stream, at) * loss
                watched |= _kept(stream.name, labels, keep, valid, logits.shape[1])
        terms |= self._agreements(strong, [z for _, z in dropped], plans, unlabelled.valid)
        return Found({name: self.scale * term for name, term in terms.items()}, logits, watched)

    @torch.no_grad()
    def after_step(self, model: nn.Module, at: At) -> None:
        """Move the teacher, after a step of the optimiser; `at` is that of the step."""
        if self.teacher is not None:
            self.teacher.update(model, decay=0.0 if self.warm(at) else None)

    def warm(self, at: At) -> bool:
        """Whether warm-up lasts."""
        return at.step < self.warmup_iterations or at.epoch < self.warmup_epochs

    def weight(self, stream: Stream, at: At) -> float:
        """Weight of a stream's loss."""
        return stream.weight

    def pseudo_loss(self, logits: Tensor, source: Tensor, valid: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Loss of one stream given the logits (N, C, *S) its labels come from, the labels, and which are kept."""
        labels, keep = self.selector(source.float().softmax(1) * valid[:, None])
        return pseudo_label_loss(logits, labels, keep, valid, loss=self.pseudo, norm=self.norm), labels, keep & valid

    def _weak_pass(
        self, student: Network, images: Tensor, unlabelled: Unlabelled
    ) -> tuple[Tensor, Tensor | None, list[tuple[Stream, Tensor]]]:
        """Logits of the labelled images; of the weak views, detached; and of these with dropped features."""
        count = len(images)
        if all(stream.labels == "teacher" for stream in self.streams):
            return student(images), None, []
        together = torch.cat([images, unlabelled.weak])
        if not self.weak:
            logits = student(together)
            return logits[:count], logits[count:].detach(), []
        features = student.encode(together)
        copies = [
            channel_dropout([feature[count:] for feature in features], self.feature_dropout, unlabelled.draw + number)
            for number in range(len(self.weak))
        ]
        logits = student.decode([torch.cat(parts) for parts in zip(features, *copies, strict=True)])
        clean, weak, *dropped = logits.split([count, *[len(unlabelled.weak)] * (1 + len(copies))])
        return clean, weak.detach(), list(zip(self.weak, dropped, strict=True))

    def _strong_pass(self, student: Network, unlabelled: Unlabelled, plans: list[MixPlan]) -> list[Tensor]:
        """Logits of each strong view, mixed."""
        views = [
            plan(unlabelled.strong[:, k]) if stream.mixed else unlabelled.strong[:, k]
            for k, (stream, plan) in enumerate(zip(self.strong, plans, strict=True))
        ]
        with nullcontext() if self.strong_updates_bn else frozen_statistics(student.model):
            return list(student(torch.cat(views)).chunk(len(views)))

    def _taught(self, weak: Tensor) -> Tensor | None:
        """Logits of the teacher, which sees every weak view once."""
        return None if self.teacher is None else self.teacher(weak)

    def _agreements(
        self, strong: list[Tensor], dropped: list[Tensor], plans: list[MixPlan], valid: Tensor
    ) -> dict[str, Tensor]:
        """Agreement of the two strong streams, and of the two weak ones."""
        if not self.agree_weight:
            return {}
        same, all_ = None, None
        if self.agree_on == "same_content":
            first, second = plans
            same, all_ = first.same_content(second) & first(valid) & second(valid), valid
        pairs = {"agree/strong": (strong, same), "agree/weak": (dropped, all_)}
        return {name: self.agree_weight * _agreement(views, mask) for name, (views, mask) in pairs.items()}

    def _check(self) -> None:
        """Raise ValueError for options that mean nothing."""
        if self.pseudo is not None and not isinstance(self.pseudo, Loss):
            raise ValueError(f"{self.name}: `pseudo` must be a loss, or its text as in 'Focal'; got {self.pseudo!r}.")
        check_pseudo(self.pseudo, self.norm)
        if self.decay is None and any(stream.labels == "teacher" for stream in self.streams):
            raise ValueError(f"{self.name}: `decay` must be a number in 0..1, that of its teacher; got None.")
        if not isinstance(self.strong_updates_bn, bool):
            raise ValueError(f"{self.name}: `strong_updates_bn` must be True or False; got {self.strong_updates_bn!r}.")
        for option, allowed in (("agree_on", AGREE_ON), ("teacher_norm", TEACHER_NORMS)):
            if getattr(self, option) not in allowed:
                raise ValueError(
                    f"{self.name}: `{option}` must be one of {', '.join(allowed)}; got {getattr(self, option)!r}."
                )
        weights = {"agree_weight": self.agree_weight} | {stream.name: stream.weight for stream in self.streams}
        for option, value in weights.items():
            if not 0 <= value < float("inf"):
                raise ValueError(f"{self.name}: the weight of {option} must be a number of at least 0; got {value!r}.")
        for option in ("warmup_iterations", "warmup_epochs"):
            if getattr(self, option) < 0:
                raise ValueError(f"{self.name}: `{option}` must be at least 0; got {getattr(self, option)!r}.")
        if not 0 <= self.feature_dropout < 1:
            raise ValueError(
                f"{self.name}: `feature_dropout` must be a share from 0 up to, not including, 1; got "
                f"{self.feature_dropout!r}."
            )
        if self.decay is not None and not 0 <= self.decay <= 1:
            raise ValueError(f"{self.name}: `decay` must be in 0..1; got {self.decay!r}.")


def _agreement(views: list[Tensor], mask: Tensor | None) -> Tensor:
    """`logit_agreement`, its mean over processes that of all their voxels."""
    value = logit_agreement(views[0], views[1], mask)
    return value if mask is None else value * share_of_ranks(mask.sum()).to(value)


def _size(maps: Tensor) -> tuple[int, ...]:
    return tuple(maps.shape[2:])


def _unmixed(maps: Tensor) -> Tensor:
    return maps


def _disagreement(sources: dict[str, Tensor | None], valid: Tensor) -> dict[str, Tensor]:
    """Share of the valid voxels at which student and teacher call different classes, where both look."""
    labels = [source.argmax(1) for source in sources.values() if source is not None]
    if len(labels) < 2:
        return {}
    return {"teacher_disagreement": ((labels[0] != labels[1]) & valid).sum() / valid.sum().clamp_min(1)}


def _kept(name: str, labels: Tensor, keep: Tensor, valid: Tensor, classes: int) -> dict[str, Tensor]:
    """Share of the valid voxels that is kept, and the same among those labelled with each class (C,)."""
    nothing, places = labels.new_zeros(classes), labels.flatten()
    kept, all_ = (nothing.scatter_add(0, places, mask.flatten().long()).float() for mask in (keep, valid))
    return {f"kept/{name}": kept.sum() / all_.sum().clamp_min(1), f"kept_by_class/{name}": kept / all_.clamp_min(1)}
