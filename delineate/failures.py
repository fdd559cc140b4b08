"""Failures that come from the machine, in one line each: a full disk, a killed process, memory that ran out."""

import errno
import re

import torch

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def in_words(error: BaseException) -> str | None:
    """What happened and what to do; None for an error that is none of these.

    >>> in_words(OSError(errno.ENOSPC, "No space left on device", "runs/a/last.ckpt"))
    'runs/a/last.ckpt: the disk is full. What was written before is whole; free some space.'
    >>> in_words(ValueError("something else"))
    """
    text = str(error)
    if isinstance(error, OSError) and error.errno in FULL:
        place = error.filename or "writing results"
        return f"{place}: the disk is full. What was written before is whole; free some space."
    if isinstance(error, torch.OutOfMemoryError):
        return "the GPU has no memory left: lower --batch_size or --crop, or choose a smaller --model."
    if isinstance(error, MemoryError) or "can't allocate memory" in text:
        return "the machine has no memory left: lower --batch_size, --crop or --workers."
    if isinstance(error, RuntimeError) and "unable to" in text and "/torch_" in text:
        return "the shared memory for loaders is full: lower --workers, or read in the main process with --workers 0."
    if isinstance(error, RuntimeError) and (killed := re.search(r"DataLoader worker \(pid.*?(exited|is killed)", text)):
        how = re.search(r"signal: (\w+)", text)
        said = f"was killed ({how[1]})" if how else killed[1]
        return (
            f"a process that loads images {said}; for want of memory? Lower --batch_size or --crop, or read images "
            "in the main process with --workers 0."
        )
    return None
