"""Methods by their text: what is read, what is refused in one line, and which texts mean the same."""

import pytest

from delineate.losses import CrossEntropyLoss
from delineate.semi import METHODS, FixMatch, MeanTeacher, parse_method
from delineate.semi.selectors import ClassMaxThreshold, FixedThreshold, NoSelection


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("change", [str, str.upper, str.title, " {} ".format, "{}()".format])
def test_names(name, change):
    assert type(parse_method(change(name))) is METHODS[name]


def test_options_reach_the_method():
    found = parse_method(
        "DSSN(selector=ClassMaxThreshold(floor=.9, ratio=.8), strong_weight=1, agree_on='all', decay=.5, "
        "warmup_iterations=0, warmup_epochs=5, feature_dropout=0.25, teacher_norm='batch', strong_updates_bn=False)"
    )
    assert found.selector == ClassMaxThreshold(floor=0.9, ratio=0.8)
    assert [stream.weight for stream in found.streams] == [1, 1, 0.25, 0.25]
    assert (found.agree_on, found.decay, found.teacher_norm) == ("all", 0.5, "batch")
    assert (found.warmup_iterations, found.warmup_epochs, found.feature_dropout) == (0, 5, 0.25)
    assert found.strong_updates_bn is False
    assert parse_method("unimatch(selector=NoSelection())").selector == NoSelection()
    assert parse_method("fixmatch").selector == FixedThreshold(0.95)


def test_a_loss_of_pseudo_labels_ignores_what_is_not_valid():
    loss = parse_method("fixmatch(pseudo='CE')").pseudo
    assert isinstance(loss, CrossEntropyLoss)
    assert loss.ignore_index == -1


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("dssn( decay = 0.99 )", "DSSN(decay=.99)"),
        ("dssn(decay=.996)", "dssn"),
        ("dssn(selector=ClassMaxThreshold())", "dssn"),
        ("dssn(decay=.9, agree_weight=0)", "dssn(agree_weight=0, decay=0.9)"),
        ("unimatch(selector=FixedThreshold( threshold=.9 ))", "UniMatch(selector=FixedThreshold(threshold=0.9))"),
    ],
)
def test_texts_of_one_method(one, other):
    assert parse_method(one).meaning() == parse_method(other).meaning()


def test_texts_of_different_methods():
    texts = ["dssn", "dssn(decay=.9)", "dssn(decay=.99)", "unimatch", "fixmatch", "fixmatch(selector=NoSelection())"]
    assert len({parse_method(text).meaning() for text in texts}) == len(texts)


HOSTILE = [
    "__import__('os')",
    "__import__('os').system('false')",
    "dssn(selector=__import__('os').system('false'))",
    "dssn(decay=__import__('os'))",
    "dssn(decay=10**10**10)",
    "dssn(**{'decay': 1})",
    "dssn(*[1])",
    "dssn(1)",
    "dssn(decay=.9, decay=.8)",
    "dssn()()",
    "dssn; fixmatch",
    "lambda: 0",
    "METHODS['dssn']",
    "dssn.__class__",
    "(" * 3000,
    "dssn" + "(" * 3000,
    "dssn(\0)",
    "",
]


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_nothing_is_run(text):
    with pytest.raises(ValueError, match=r"--semi: expected") as error:
        parse_method(text)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("fixmach", "expected one of supervised, meanteacher, fixmatch, unimatch, dssn; got 'fixmach'"),
        ("fixmatch(decay=.9)", "FixMatch has no option 'decay'. Its options: selector, strong_weight"),
        ("supervised(scale=2)", "Supervised has no option 'scale'. Its options: none"),
        ("dssn(selector=Fixed())", "expected `selector` to be one of FixedThreshold, ClassMaxThreshold, NoSelection"),
        ("dssn(selector=[1])", "expected `selector` to be one of"),
        ("dssn(selector=FixedThreshold(bound=2))", "FixedThreshold has no option 'bound'. Its options: threshold"),
        ("dssn(selector=FixedThreshold(threshold=2))", "`threshold` must be in [0, 1]; got 2"),
        ("dssn(selector=ClassMaxThreshold(floor=.5))", "floor * ratio >= 0.5"),
        ("dssn(decay='x')", "DSSN"),
        ("dssn(decay=1.5)", "DSSN: `decay` must be in 0..1; got 1.5"),
        ("dssn(decay=None)", "DSSN: `decay`"),
        ("meanteacher(decay=None)", "MeanTeacher: `decay`"),
        ("meanteacher(ramp=0)", "MeanTeacher: `ramp` must be a share"),
        ("meanteacher(strong_weight=1e999)", "the weight of strong0 must be a number of at least 0; got inf"),
        ("dssn(agree_weight=-1)", "the weight of agree_weight must be a number of at least 0; got -1"),
        ("dssn(agree_on='some')", "`agree_on` must be one of same_content, all; got 'some'"),
        ("dssn(teacher_norm='layer')", "`teacher_norm` must be one of running, batch; got 'layer'"),
        ("unimatch(feature_dropout=1)", "`feature_dropout` must be a share"),
        ("dssn(warmup_epochs=-1)", "`warmup_epochs` must be at least 0; got -1"),
        ("dssn(strong_updates_bn='no')", "DSSN: `strong_updates_bn`"),
        ("fixmatch(norm='all')", "`norm` must be one of ['valid', 'kept']; got 'all'"),
        ("fixmatch(pseudo='Focal', norm='kept')", "`norm` must be 'valid'"),
        ("fixmatch(pseudo='NoLoss')", "no loss named 'NoLoss'"),
        ("fixmatch(pseudo=5)", "`pseudo`"),
        ("fixmatch(pseudo=Focal())", "`pseudo`"),
    ],
)
def test_options_that_mean_nothing(text, words):
    with pytest.raises(ValueError) as error:  # noqa: PT011 (the words follow)
        parse_method(text)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_a_loss_that_would_count_what_is_not_valid():
    with pytest.raises(ValueError, match="ignore_index=-1"):
        FixMatch(pseudo=CrossEntropyLoss())


def test_weights_of_the_table():
    assert [(stream.name, stream.weight, stream.labels, stream.mixed) for stream in MeanTeacher().streams] == [
        ("strong0", 0.1, "teacher", False)
    ]
