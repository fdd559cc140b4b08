"""What makes the ops work under `torch.func`: vmap, and grad inside or outside of it.

An op made with `torch.library.custom_op` compiles, but `torch.func` cannot look into its autograd formula. While one
of its transforms is active, the same forward and backward are therefore run as a `torch.autograd.Function`.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree


def batched(op: Callable) -> Callable:
    """A vmap rule for an op whose tensors all begin with the samples, which do not know of each other.

    The mapped dim is folded into that of the samples, and out of it again.
    """

    def rule(info: Any, in_dims: tuple, *args: Any) -> tuple[Any, Any]:
        def folded(value: Any, dim: int | None) -> Any:
            if not isinstance(value, Tensor):
                return value
            value = value.expand(info.batch_size, *value.shape) if dim is None else value.movedim(dim, 0)
            return value.flatten(0, 1)

        found = op(*(folded(value, dim) for value, dim in zip(args, in_dims, strict=True)))
        apart = pytree.tree_map(lambda t: t.unflatten(0, (info.batch_size, len(t) // info.batch_size)), found)
        return apart, pytree.tree_map(lambda _: 0, found)

    return rule


def differentiable(op: Any, backward: Callable, setup_context: Callable | None = None) -> Callable:
    """Give the custom op its backward, here and under the transforms of `torch.func`; returns what to call.

    Args:
        op: made with `torch.library.custom_op`; every tensor of it begins with the samples.
        backward, setup_context: as `register_autograd` takes them.
    """
    op.register_autograd(backward, setup_context=setup_context)
    op.register_vmap(batched(op))
    methods = {
        "forward": staticmethod(lambda *args: op(*args)),
        "setup_context": staticmethod(setup_context or (lambda ctx, inputs, output: None)),
        "backward": staticmethod(backward),
        "vmap": staticmethod(lambda info, in_dims, *args: batched(function.apply)(info, in_dims, *args)),
    }
    function = type(f"{op._name}_function", (torch.autograd.Function,), methods)

    def call(*args: Any) -> Any:
        if not torch.compiler.is_compiling() and torch._C._are_functorch_transforms_active():
            return function.apply(*args)
        return op(*args)

    return call
