"""What a computation allocates, seen from inside."""

import torch
from torch.utils._python_dispatch import TorchDispatchMode


class LargestAllocation(TorchDispatchMode):
    """Notes the size of the largest tensor that any operation makes.

    Views of the tensors given do not count, nor does what an expanded tensor spares.
    """

    def __init__(self, *known):
        super().__init__()
        self.numel = 0
        self._known = {tensor.untyped_storage().data_ptr() for tensor in known}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else [result]:
            fresh = isinstance(tensor, torch.Tensor) and 0 not in tensor.stride()
            if fresh and tensor.untyped_storage().data_ptr() not in self._known:
                self.numel = max(self.numel, tensor.numel())
        return result
