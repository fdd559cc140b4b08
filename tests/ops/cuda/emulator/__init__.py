"""Runs on the CPU what Triton's compiler makes of a kernel: its PTX, of the subset that the kernels here compile to.

Known is what stands in `operations.OPERATIONS`: arithmetic of integers and of float32 and float64, conversions from and
to float16 and bfloat16, rounded to nearest even; loads and stores of one or several values at once, additions to
memory; shuffles, `redux`, `ldmatrix` and `stmatrix`; branches, barriers and assertions. Anything else is refused with
the text of the instruction when it is to be run: whatever changes a meaning is part of an operation's name there.

Lanes of all warps, and of several programs, run in lock step, each with a place in the code of its own: those farthest
behind go first, so that lanes that parted meet again. At a barrier a lane waits for all of its program that are still
there; at a shuffle, or what else a warp does as one, for those of its warp.

A `Fault` is raised where memory is reached from a tensor's address but outside of that tensor, from its first to its
last value; or beyond the shared memory that the kernel asked for; where an address is not a multiple of what is read
or written there; where a register or shared memory is read before it was written, unless two registers are only put
together; where lanes wait in vain; and where two warps touch the same byte of shared memory between two barriers, one
of them to write, unless both write the same. In programs of one warp its lanes stand in for warps, and
`bar.warp.sync` for the barrier.

Not modelled: time; races in global memory; in programs of several warps, two lanes of one that meet in shared memory
without a barrier; the last bits of instructions that are `approx` on a GPU, and of fused operations in float64; and
what the assembler makes of PTX.
"""
