"""Whether a call may do without torch's dispatcher."""

from __future__ import annotations

import torch
from torch import Tensor

#: Types of tensors that nothing but the operators themselves has a say in.
_PLAIN = (Tensor, torch.nn.Parameter)


def are_plain(*tensors: Tensor | None) -> bool:
    """Whether nothing but the operators themselves has a say in any of them."""
    # A generator would cost more than what it does.
    for tensor in tensors:
        if type(tensor) not in _PLAIN and tensor is not None:
            return False
    return True


def is_eager() -> bool:
    """Nothing traces, transforms or intercepts operators."""
    return (
        not torch.compiler.is_compiling()
        and torch._C._len_torch_dispatch_stack() == 0
        and torch._C._functorch.peek_interpreter_stack() is None
    )
