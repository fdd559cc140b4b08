"""What runs on CUDA where kernels cannot be built, or do not take what they are given."""

import warnings
from types import SimpleNamespace

import pytest
import torch

from delineate.ops import cuda
from delineate.ops.overlap_labels import _forward

from .device import DEVICE, kernels


@pytest.fixture(autouse=True)
def forget():
    """What was found out about Triton holds for a process."""
    yield
    cuda.found.cache_clear()
    cuda._usable.cache_clear()


@pytest.mark.parametrize(("have", "told"), [(None, "got none"), ("3.3.1", "got 3.3.1")])
def test_without_a_triton_that_can_build_them_the_definition_runs_and_says_so_once(monkeypatch, have, told):
    cuda.found.cache_clear()
    cuda._usable.cache_clear()
    monkeypatch.setattr(cuda, "find_spec", lambda name: have)
    monkeypatch.setattr(cuda, "import_module", lambda name: SimpleNamespace(__version__=have))
    logits, labels = torch.randn(2, 3, 9), torch.randint(0, 3, (2, 9))
    arguments = (None, None, False, False, [], True)
    expected = _forward(logits, labels, *arguments)
    with kernels(), pytest.warns(UserWarning, match=f"plain PyTorch.*Triton 3.4 or newer; {told}"):
        found = _forward(logits.to(DEVICE), labels.to(DEVICE), *arguments)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours.cpu(), theirs)
    with kernels(), warnings.catch_warnings():
        warnings.simplefilter("error")
        _forward(logits.to(DEVICE), labels.to(DEVICE), *arguments)
