import os
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))  # so that tests import `reference`


def pytest_addoption(parser):
    told = "kernels run as machine code for this compute capability, emulated on the CPU, not under the interpreter"
    parser.addoption("--emulate", type=int, choices=(80, 90), help=told)


def pytest_configure(config):
    """Triton looks for its variable when a kernel is defined."""
    if config.getoption("emulate"):
        os.environ.pop("TRITON_INTERPRET", None)
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    elif not torch.cuda.is_available():
        os.environ["TRITON_INTERPRET"] = "1"  # kernels run on the CPU


@pytest.fixture(autouse=True, scope="session")
def launches_are_emulated(request):
    if not (capability := request.config.getoption("emulate")):
        yield
        return
    from ops.cuda.emulator.launches import emulated

    with emulated(capability):
        yield


def pytest_terminal_summary(terminalreporter, config):
    if capability := config.getoption("emulate"):
        terminalreporter.write_line(f"kernels: emulated machine code of capability {capability}")
        found = sys.modules.get("ops.cuda.emulator.launches")
        for name, number in sorted(found.LAUNCHES.items()) if found else ():
            terminalreporter.write_line(f"{name}: {number} launches")
