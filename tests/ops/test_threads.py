"""Rows on threads: in order, one core each, and nothing outside notices."""

import os
import subprocess
import sys

import pytest
import torch

from delineate.ops.threads import in_threads


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("two_threads")
def test_results_come_in_order_from_threads_of_one_core():
    found = in_threads(lambda i: (i, torch.get_num_threads(), torch.is_grad_enabled()), list(range(7)))
    assert found == [(i, 1, False) for i in range(7)]
    assert torch.get_num_threads() == 2
    assert torch.is_grad_enabled()
    assert in_threads(lambda i: torch.get_num_threads(), [0]) == [2]  # one row: all cores for it
    assert in_threads(lambda i: i, []) == []


AFTER = """
import threading, torch
torch.set_num_threads(2)
from delineate.ops.threads import in_threads
in_threads(abs, [1, 2])
found = []
late = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
late.start(); late.join()
print(*found)
"""


def test_threads_made_later_have_the_number_they_would_have_had():
    run = subprocess.run([sys.executable, "-c", AFTER], capture_output=True, text=True, timeout=120, check=True)
    assert run.stdout == "2\n"


@pytest.mark.usefixtures("two_threads")
def test_errors_reach_the_caller():
    def refuse(_):
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        in_threads(refuse, [1, 2, 3])


@pytest.mark.usefixtures("two_threads")
@pytest.mark.filterwarnings("ignore:This process.*is multi-threaded:DeprecationWarning")
def test_a_forked_process_makes_its_own_threads():
    """As a worker of a DataLoader is."""
    in_threads(abs, [1, 2])
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writer, bytes(in_threads(abs, [3, 4])))
        os._exit(0)
    os.close(writer)
    assert os.read(reader, 2) == bytes([3, 4])
    os.waitpid(child, 0)
