import pytest

pytest.importorskip("triton", reason="kernels are built by Triton, which is not installed")
