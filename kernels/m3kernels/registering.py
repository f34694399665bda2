"""How an op is made known to torch, and called.

As a custom op it is traced, exported, differentiated and transformed. Torch's dispatcher takes as
long for that as a small kernel runs, several times over, and most calls want none of it: those go
to the function itself.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.library import custom_op

__all__ = ["Op", "op"]


class Op:
    """A custom op; called as its function where nothing traces or differentiates the call."""

    def __init__(self, name: str, schema: str, function: Callable[..., Any]) -> None:
        """Register `name`, such as "m3kernels::maxsim", with its schema and its function."""
        self.function = function
        self.custom = custom_op(name, function, mutates_args=(), schema=schema)
        self.register_fake = self.custom.register_fake
        self.register_autograd = self.custom.register_autograd

    def __call__(self, *arguments: Any) -> Any:
        """Call it with the schema's arguments, in order."""
        return (self.function if _by_itself(arguments) else self.custom)(*arguments)


def op(name: str, *, schema: str) -> Callable[[Callable[..., Any]], Op]:
    """Decorate the function of an op that changes none of its arguments."""

    def of(function: Callable[..., Any]) -> Op:
        return Op(name, schema, function)

    return of


def _by_itself(arguments: tuple[Any, ...]) -> bool:
    """Whether the call is one of plain tensors that nobody watches."""
    if (
        torch.compiler.is_compiling()  # before all that a tracer can't look into
        or torch._C._len_torch_dispatch_stack()
        or torch._C._functorch.peek_interpreter_stack() is not None
        or torch._C._get_tracing_state() is not None
    ):
        return False
    differentiated = torch.is_grad_enabled()
    return all(
        type(argument) in _PLAIN and not (differentiated and argument.requires_grad)
        for argument in arguments
        if isinstance(argument, Tensor)
    )


_PLAIN = (Tensor, torch.nn.Parameter)
