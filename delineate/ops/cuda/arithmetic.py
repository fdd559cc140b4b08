"""Arithmetic of a voxel inside kernels, in float32: what `delineate.ops.cost` and PyTorch's functions are elsewhere.

Letters: B voxels of a block.
"""

import triton
import triton.language as tl

_LOG2_E = tl.constexpr(1.4426950408889634)
_LN_2 = tl.constexpr(0.6931471805599453)
_SMALL, _LARGE = tl.constexpr(1e-30), tl.constexpr(1e30)


@triton.jit
def exp(x):
    return tl.exp2(x * _LOG2_E)


@triton.jit
def log(x):
    """Of x >= 1: not below 0, whatever the rounding of the hardware; NaN stays."""
    found = tl.log2(x) * _LN_2
    return tl.where(found < 0, 0.0, found)


@triton.jit
def log1p(x):
    """Of x in [0, 1]: its series where 1 + x would round x away."""
    series = x * (1 - x * (0.5 - x * (0.3333333333333333 - x * 0.25)))
    return tl.where(x < 0.0625, series, log(1 + x))


@triton.jit
def expm1(x):
    """Of x <= 0: its series where a difference would cancel."""
    last = 1 + x * 0.16666666666666666 * (1 + x * 0.14285714285714285)
    series = x * (1 + x * 0.5 * (1 + x * 0.3333333333333333 * (1 + x * 0.25 * (1 + x * 0.2 * last))))
    return tl.where(x > -0.5, series, exp(x) - 1)


@triton.jit
def power(x, EXPONENT: tl.constexpr):
    """x >= 0 to a power known when the kernel is built."""
    if EXPONENT == 0:
        found = tl.full(x.shape, 1.0, x.dtype)
    elif EXPONENT == 1:
        found = x
    elif EXPONENT == 2:
        found = x * x
    else:
        found = tl.exp2(EXPONENT * tl.log2(x))
    return found


@triton.jit
def cost_value(log_p, GAMMA: tl.constexpr, POWER: tl.constexpr, EPSILON: tl.constexpr):
    """See `delineate.ops.cost.Cost.value`."""
    if POWER != 1:
        found = power(-log_p, POWER)
    elif GAMMA == 0 and EPSILON == 0:
        found = -log_p
    else:
        wrong = -expm1(log_p)
        found = (EPSILON * wrong - log_p) * power(wrong, GAMMA)
    return found


@triton.jit
def cost_slope(log_p, p, GAMMA: tl.constexpr, POWER: tl.constexpr, EPSILON: tl.constexpr):
    """See `delineate.ops.cost.Cost.slope`."""
    if POWER != 1:
        found = tl.where(log_p == 0, 0.0, -POWER * power(-log_p, POWER - 1))
    elif GAMMA == 0:
        found = -EPSILON * p - 1
    else:
        wrong = -expm1(log_p)
        ratio = tl.maximum(log_p, -_LARGE) / tl.maximum(wrong, _SMALL)
        found = ((ratio * GAMMA - EPSILON * (GAMMA + 1)) * p - 1) * power(wrong, GAMMA)
    return found
