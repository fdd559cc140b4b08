"""The examples of the pages run as they stand, and do what the pages say."""

import math

import pytest
import torch
from monai.data.meta_tensor import MetaTensor

from delineate.losses import parse
from trainers.pages import PAGES, run_page


def learnt(history):
    """The loss fell, step by step or nearly so."""
    assert all(map(math.isfinite, history))
    assert min(history[-2:]) < 0.95 * history[0], history


def has_gradients(model):
    assert all(weights.grad is not None and weights.grad.isfinite().all() for weights in model.parameters())


@pytest.mark.filterwarnings("ignore:.*does not have many workers", "ignore:.*isinstance.treespec, LeafSpec")
def test_pytorch_and_lightning():
    torch.manual_seed(0)
    page = run_page("pytorch.md")
    learnt(page["history"])
    has_gradients(page["model"])
    assert page["parts"].keys() == {"Dice(ignore_index=255)", "0.5*TopK(k=0.2, ignore_index=255)"}
    assert page["whole"].item() == pytest.approx(page["supervised"].loss(page["logits"], page["labels"]).item())
    assert page["batch"]["geometry"]
    assert page["half"].dtype == torch.float32
    module = page["module"]
    assert [part.epoch.item() for part in module.loss.modules() if hasattr(part, "epoch")] == [2]
    assert len(page["logged"]) == 2
    assert all(map(math.isfinite, page["logged"].values()))
    assert "loss.epoch" in module.state_dict()


@pytest.mark.filterwarnings("ignore")  # of MONAI's and ignite's own code
def test_monai():
    pytest.importorskip("ignite", reason="needs pytorch-ignite")
    torch.manual_seed(0)
    page = run_page("monai.md")
    learnt(page["history"])
    has_gradients(page["trainer"].network)
    assert isinstance(next(iter(page["loader"]))["label"], MetaTensor)
    assert page["trainer"].state.epoch == 4
    assert [part.epoch.item() for part in page["trainer"].loss_function.modules() if hasattr(part, "epoch")] == [3]
    assert page["outputs"].shape == (4, 3, 2, 32, 32, 16)
    assert {geometry.kind for geometry in page["batch"]["geometry"]} == {"distances"}
    target = page["prepare"].target(page["batch"])
    assert target.spacing.tolist() == [1.0, 1.0, 1.5]
    logits = torch.randn(2, 2, 32, 32, 16)
    in_mm = parse("DiceCE + Boundary", spacing=[1.0, 1.0, 1.5])(logits, page["batch"]["mask"])
    torch.testing.assert_close(parse("DiceCE + Boundary")(logits, target), in_mm)


def test_smp():
    torch.manual_seed(0)
    page = run_page("smp.md")
    learnt(page["history"])
    has_gradients(page["model"])
    assert page["binary"].isfinite()
    assert page["multilabel"].isfinite()


def test_every_page_is_run_here_or_has_no_python():
    for page in PAGES.glob("*.md"):
        ran = page.name in ("pytorch.md", "monai.md", "smp.md", "onnx.md")  # the last in test_export.py
        assert ("```python" in page.read_text()) == ran, page.name
