"""What calls cost on the current GPU: times by its own events, and memory.

Before each call a buffer larger than the cache is read, so that inputs come from memory. It is read and not written:
what a cache holds of it need not be written back while something else is timed.
"""

import gc
import statistics
from collections.abc import Callable

import torch

from delineate.training.cost import peak_allocated

Call = Callable[[], object]
FLUSHED, COPIED = 2**29, 2**31
"""Bytes of that buffer, and of the copy that bandwidth is taken from."""


class Gpu:
    """The current GPU."""

    device = "cuda"

    def __init__(self) -> None:
        self.name = torch.cuda.get_device_name()
        self._flushed = torch.zeros(FLUSHED // 4, device=self.device)

    def eager(self, call: Call) -> float:
        """Seconds of a call from Python, from its first launch on an idle GPU to the end of its last."""
        self._flushed.sum()
        torch.cuda.synchronize()  # so that the GPU waits for Python, and gaps between launches count
        return self._between(call)

    def replayed(self, replay: Call) -> float:
        """Seconds that the GPU takes for one launch: a captured graph, or a copy."""
        self._flushed.sum()  # meanwhile it is launched
        return self._between(replay)

    def captured(self, call: Call) -> Call:
        """The work of a call as a graph, to be replayed.

        Raises:
            RuntimeError: where it waits for the GPU, or does anything else that no graph can hold.
        """
        self.release()
        stream, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):  # a capture that fails leaves its stream current; this puts back the one before
            for _ in range(2):
                call()
            try:
                with torch.cuda.graph(graph, stream=stream):
                    call()
            except RuntimeError as error:  # the end of a capture that failed hides why it did
                raise (error.__context__ or error) from None
        torch.cuda.current_stream().wait_stream(stream)
        return graph.replay

    def peak(self, call: Call) -> int:
        """Most bytes allocated during a call beyond what was held before."""
        return peak_allocated(call, self.device)

    def bandwidth(self, rounds: int) -> float:
        """Bytes a second of a large copy from the GPU to itself: those read and those written."""
        size = min(COPIED, torch.cuda.mem_get_info()[0] // 4)
        source = torch.zeros(size, dtype=torch.uint8, device=self.device)
        place = torch.zeros_like(source)
        times = [self.replayed(lambda: place.copy_(source)) for _ in range(rounds + 1)]
        return 2 * size / statistics.median(times[1:])

    def release(self) -> None:
        """Give back memory that nobody holds."""
        gc.collect()
        torch.cuda.empty_cache()

    def _between(self, call: Call) -> float:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        call()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / 1e3
