"""From text to loss: what is understood, what is refused, and that nothing is ever evaluated."""

import numpy as np
import pytest

import delineate.losses as L
from losses.cases import CASES

UNDERSTOOD = {
    "Dice": L.DiceLoss(),
    " Dice() ": L.DiceLoss(),
    "CE": L.CrossEntropyLoss(),
    "CrossEntropy": L.CrossEntropyLoss(),
    "Dice + CE": L.DiceLoss() + L.CrossEntropyLoss(),
    "Dice + 0.5*CE": L.DiceLoss() + 0.5 * L.CrossEntropyLoss(),
    "Dice + CE*0.5": L.DiceLoss() + 0.5 * L.CrossEntropyLoss(),
    "2*Dice*3": 6 * L.DiceLoss(),
    "2*Dice + CE": 2 * L.DiceLoss() + L.CrossEntropyLoss(),
    "2*(Dice + CE)": 2 * L.DiceLoss() + 2 * L.CrossEntropyLoss(),
    "(Dice + CE)*2": 2 * L.DiceLoss() + 2 * L.CrossEntropyLoss(),
    "(((Dice)) + (CE + (0.5*(Focal + 2*(TopK)))))": L.DiceLoss()
    + L.CrossEntropyLoss()
    + 0.5 * L.FocalLoss()
    + L.TopKLoss(),
    "Dice + -0.5*CE": L.DiceLoss() + -0.5 * L.CrossEntropyLoss(),
    "-1*Dice": -1 * L.DiceLoss(),
    "--2*Dice": 2 * L.DiceLoss(),
    "1e-3*Dice": 0.001 * L.DiceLoss(),
    "TopK(k=0.2)": L.TopKLoss(k=0.2),
    "Dice(squared=True, pool='batch', smooth=1)": L.DiceLoss(squared=True, pool="batch", smooth=1),
    "CE(class_weight=[1, 2.5], classes=(0, 1))": L.CrossEntropyLoss(class_weight=[1, 2.5], classes=[0, 1]),
    "CE(ignore_index=-1, normalize='weight')": L.CrossEntropyLoss(ignore_index=-1, normalize="weight"),
    "Dice(classes=None)": L.DiceLoss(),
    "Focal(mode='sigmoid', alpha=0.25)": L.FocalLoss(mode="sigmoid", alpha=0.25),
    "Focal(alpha=[1, 2])": L.FocalLoss(class_weight=[1, 2]),
    "(Dice +\n CE)": L.DiceLoss() + L.CrossEntropyLoss(),
    "DiceCE": L.DiceLoss() + L.CrossEntropyLoss(),
    "2*DiceTopK(k=0.2, smooth=1) + Lovasz": 2 * L.DiceLoss(smooth=1) + 2 * L.TopKLoss(k=0.2) + L.LovaszLoss(),
    "DiceFocal(gamma=1, ignore_index=255)": L.DiceLoss(ignore_index=255) + L.FocalLoss(gamma=1, ignore_index=255),
    "Schedule(Dice, CE + Focal, start=[1, 0.5], end=[0, -1], epochs=7)": L.Schedule(
        L.DiceLoss(), L.CrossEntropyLoss() + L.FocalLoss(), start=[1, 0.5], end=[0, -1], epochs=7
    ),
    "0.5*Schedule(Dice, start=[1], end=[0], epochs=1) + CE": 0.5
    * L.Schedule(L.DiceLoss(), start=[1], end=[0], epochs=1)
    + L.CrossEntropyLoss(),
}

NESTED = 3000
REFUSED = {
    # text: words of the message
    "": "is not an expression",
    "   ": "is not an expression",
    "3": "expected the name of a loss",
    "2*3": "one side of \\* must be a number|expected the name of a loss",
    "Dice + 1": "expected the name of a loss",
    "2*3*Dice": "one side of \\* must be a number",
    "Dice *": "is not an expression",
    "Dice CE": "is not an expression",
    "Dice\n+ CE": "is not an expression",
    "Dice; CE": "is not an expression",
    "x = Dice": "is not an expression",
    "Dice\0": "is not an expression",
    "Dice * CE": "one side of \\* must be a number",
    "Dice - CE": "expected the name of a loss",
    "-Dice": "expected the name of a loss",
    "Dice / 2": "expected the name of a loss",
    "Dice ** 2": "expected the name of a loss",
    "Dice, CE": "expected the name of a loss",
    "[Dice]": "expected the name of a loss",
    "'Dice'": "expected the name of a loss",
    "True*Dice": "one side of \\* must be a number",
    "2j*Dice": "one side of \\* must be a number",
    "nan*Dice": "one side of \\* must be a number",
    "1e999*Dice": "must be a finite number",
    "1e308*(1e308*Dice)": "must be a finite number",
    "1" + "0" * 400 + "*Dice": "must be a finite number",
    "9" * 5000 + "*Dice": "is not an expression",
    "dice": "no loss named 'dice'.* Did you mean 'Dice'\\? All names: .*CE, Combo, Component, CrossEntropy, Dice",
    "DICE": "Did you mean 'Dice'\\?",
    "DiceLoss": "Did you mean 'Dice'\\?",
    "diceloss": "Did you mean 'Dice'\\?",
    "Dise": "Did you mean 'Dice' or",
    "DiceCE(Dice)": "arguments of DiceCE must be named",
    "DiceCE(k=0.1)": "DiceCE has no argument 'k'",
    "DiceTopK(k=2)": "TopKLoss: `k` must be",
    "Schedule(Dice)": "Schedule needs start and end and epochs",
    "Schedule(Dice, 2, start=[1, 1], end=[0, 0], epochs=1)": "expected the name of a loss",
    "Schedule(Dice, CE, start=[1], end=[0, 1], epochs=1)": "`start` must be one number for each of the 2 terms",
    "Schedule(Dice, CE, start=[1, 0], end=[0, 'a'], epochs=1)": "`end` must be a finite number",
    "Schedule(Dice, CE, start=[1, 0], end=[0, 1], epochs=0)": "`epochs` must be an integer of at least 1",
    "Schedule(Dice, CE, start=[1, 0], end=[0, 1], epochs=1, mode='sigmoid')": "Schedule has no argument 'mode'",
    "ce": "Did you mean 'CE'\\?",
    "CELoss": "Did you mean 'CE'\\?",
    "crossentropy": "Did you mean 'CrossEntropy'\\?",
    "Crossentropi": "Did you mean 'CrossEntropy'",
    "CE + topk": "no loss named 'topk' .*column 6.* Did you mean 'TopK'\\?",
    "Loss": "no loss named 'Loss'",
    "Sum": "no loss named 'Sum'",
    "parse": "no loss named 'parse'",
    "_Region": "no loss named '_Region'",
    "os": "no loss named 'os'",
    "__import__('os')": "no loss named '__import__'",
    "eval('Dice')": "no loss named 'eval'",
    "Dice.__class__": "expected the name of a loss",
    "Dice().forward": "expected the name of a loss",
    "Dice()()": "expected the name of a loss",
    "(lambda: Dice)()": "expected the name of a loss",
    "lambda: Dice": "expected the name of a loss",
    "Dice if True else CE": "expected the name of a loss",
    "[Dice for x in (1,)][0]": "expected the name of a loss",
    "f'{Dice}'": "expected the name of a loss",
    "(x := Dice)": "expected the name of a loss",
    "TopK(0.1)": "arguments of TopK must be named",
    "Dice(*[1])": "arguments of Dice must be named",
    "Dice(**{})": "\\*\\* is not part of an expression",
    "TopK(q=1)": "TopK has no argument 'q'.* All arguments of TopK: k, mode",
    "TopK(K=0.1)": "TopK has no argument 'K'.* Did you mean 'k'\\?",
    "Dice(ignore_indx=1)": "Did you mean 'ignore_index'",
    "CE(pool='batch')": "CE has no argument 'pool'",
    "Dice(self=1)": "Dice has no argument 'self'",
    "TopK(k=0.1, k=0.2)": "argument 'k' is given twice",
    "TopK(k=1/10)": "values of arguments must be",
    "TopK(k=Dice)": "values of arguments must be",
    "TopK(k=__import__('os').getpid())": "values of arguments must be",
    "TopK(k=(lambda: 1)())": "values of arguments must be",
    "TopK(k=1+2j)": "values of arguments must be",
    "Dice(classes={1, 2})": "values of arguments must be",
    "Dice(classes={1: 2})": "values of arguments must be",
    "Dice(classes=[1, x])": "values of arguments must be",
    "Dice(pool=b'batch')": "values of arguments must be",
    "TopK(k=2)": "TopKLoss: `k` must be",
    "TopK(k='0.1')": "TopKLoss: `k` must be",
    "Dice(squared='no')": "DiceLoss: `squared` must be True or False",
    "Dice(classes=1)": "DiceLoss: `classes` must be",
    "CE(class_weight=['a'])": "CrossEntropyLoss: `class_weight` must be",
    "CE(ignore_index='a')": "CrossEntropyLoss: `ignore_index` must be",
    "Dice(reduction='none') + CE": "same `reduction`",
    "(" * NESTED + "Dice" + ")" * NESTED: "is not an expression|nested too deeply",
    "2*(" * 150 + "Dice" + ")" * 151: "is not an expression",
    "-" * NESTED + "1*Dice": "nested too deeply",
    "Dice" + " + CE" * NESTED: "nested too deeply or has too many terms",
    "TopK(k=" + "-" * NESTED + "1)": "nested too deeply",
    "TopK(k=" + "[" * NESTED + "]" * NESTED + ")": "is not an expression|nested too deeply",
    "Dice" + "()" * NESTED: "expected the name of a loss|nested too deeply",
}


def short(value):
    text = value if isinstance(value, str) else repr(value)
    return repr(text if len(text) < 40 else text[:37] + "...")


@pytest.mark.parametrize(("text", "expected"), UNDERSTOOD.items(), ids=short)
def test_understood(text, expected):
    found = L.parse(text)
    assert found.expression() == expected.expression()
    assert type(found) is type(expected)


@pytest.mark.parametrize(("text", "words"), REFUSED.items(), ids=short)
def test_refused_in_one_clear_line(text, words):
    with pytest.raises(ValueError, match=words) as error:
        L.parse(text)
    message = str(error.value)
    assert len(message.splitlines()) == 1
    assert len(message) < 900
    assert message.isprintable()


@pytest.mark.parametrize("text", [None, 3, b"Dice", ["Dice"], L.DiceLoss()], ids=repr)
def test_what_is_not_text(text):
    with pytest.raises(ValueError, match="parse: expected text"):
        L.parse(text)


def test_nothing_is_evaluated(monkeypatch):
    called = []
    monkeypatch.setattr("builtins.eval", lambda *a: called.append(a))
    monkeypatch.setattr("builtins.exec", lambda *a: called.append(a))
    for text in ("__import__('os')", "eval('1')", "Dice(smooth=exec('1'))", "CE.__init__.__globals__"):
        with pytest.raises(ValueError, match=r"^parse: "):
            L.parse(text)
    assert not called


def test_common_arguments_reach_every_term_that_knows_them_and_does_not_set_them():
    loss = L.parse("Dice + 2*CE(ignore_index=0) + TopK", ignore_index=255, pool="batch", mode="sigmoid")
    assert [term.ignore_index for _, term in loss.pairs()] == [255, 0, 255]
    assert {term.mode for _, term in loss.pairs()} == {"sigmoid"}
    assert loss.pairs()[0][1].pool == "batch"


def test_common_arguments_reach_the_terms_of_a_schedule():
    loss = L.parse("Schedule(Dice, CE(ignore_index=0), start=[1, 0], end=[0, 1], epochs=2)", ignore_index=255)
    assert [term.ignore_index for term in loss.terms] == [255, 0]


def test_common_argument_that_no_loss_knows():
    with pytest.raises(ValueError, match=r"no loss has an argument 'ignor_index'\. Did you mean 'ignore_index'"):
        L.parse("Dice + CE", ignor_index=255)


OPTIONS = [
    {},
    {"mode": "sigmoid", "ignore_index": 255, "reduction": "none"},
    {"class_weight": [0.1, 1.0, 1e-7, 3e8], "classes": [0, 2]},
    {"ignore_index": -1, "class_weight": [1 / 3, 2.0]},
]


@pytest.mark.parametrize("case", CASES, ids=repr)
@pytest.mark.parametrize("options", OPTIONS, ids=lambda o: ",".join(o) or "plain")
def test_round_trip(case, options):
    for extra in ({}, {"pool": "batch", "absent": "count"}) if case.region else ({},):
        loss = case.build(**options, **extra)
        for whole in (loss, 0.3 * loss, loss + -1.5 * loss, 1e-9 * loss + 1e22 * loss)[:: 1 if case.leading else 2]:
            text = whole.expression()
            again = L.parse(text)
            assert again.expression() == text == repr(whole)
            assert again.state_dict().keys() == whole.state_dict().keys()
            assert all((again.state_dict()[k] == v).all() for k, v in whole.state_dict().items())
            if isinstance(whole, L.Sum):
                assert again.factors == whole.factors


def test_numbers_of_numpy_become_plain_text():
    loss = np.float64(0.5) * L.TopKLoss(k=np.float64(0.25), ignore_index=np.int64(3), classes=np.array([0, 2]))
    assert loss.expression() == "0.5*TopK(k=0.25, ignore_index=3, classes=[0, 2])"
    assert L.parse(loss.expression()).expression() == loss.expression()
