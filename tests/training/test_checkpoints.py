"""What a full disk leaves behind, and how failures of the machine are told."""

import errno
import os
from pathlib import Path

import pytest
import torch

from delineate.failures import in_words
from delineate.training.checkpoints import WholeCheckpoints, check_whole


def full(*arguments):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_costs_no_earlier_checkpoint(tmp_path, monkeypatch):
    place = tmp_path / "checkpoints/last.ckpt"
    WholeCheckpoints().save_checkpoint({"epoch": 1}, place)
    monkeypatch.setattr(Path, "write_bytes", lambda self, content: (self.write_text("half"), full()))
    with pytest.raises(OSError, match="No space left") as failed:
        WholeCheckpoints().save_checkpoint({"epoch": 2}, place)
    assert str(place) in in_words(failed.value)
    assert torch.load(place, weights_only=True) == {"epoch": 1}
    assert [path.name for path in place.parent.iterdir()] == ["last.ckpt"]


def test_a_checkpoint_cut_short_is_refused_by_name(tmp_path):
    place = tmp_path / "last.ckpt"
    check_whole(place)
    WholeCheckpoints().save_checkpoint({"weights": torch.zeros(1000)}, place)
    check_whole(place)
    os.truncate(place, 2000)
    with pytest.raises(ValueError, match=r"last.ckpt: expected a whole checkpoint; it is cut short"):
        check_whole(place)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (RuntimeError("DataLoader worker (pid 12) is killed by signal: Killed. "), "was killed (Killed)"),
        (RuntimeError("DataLoader worker (pid(s) 12) exited unexpectedly"), "process that loads images exited"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), "the GPU has no memory left"),
        (
            RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"),
            "machine has no memory",
        ),
        (RuntimeError("unable to write to file </torch_1_2>: No space left on device (28)"), "shared memory"),
    ],
)
def test_failures_of_the_machine_are_told_with_a_remedy(error, words):
    assert words in in_words(error)
    assert "--" in in_words(error)


def test_other_errors_are_not_explained_away():
    for error in (
        RuntimeError("mat1 and mat2 shapes cannot be multiplied"),
        OSError(errno.EACCES, "denied"),
        KeyError("a"),
    ):
        assert in_words(error) is None
