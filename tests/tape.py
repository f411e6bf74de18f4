"""A recording of work on the CPU that behaves as a CUDA graph does: no Python, the same memory."""

from __future__ import annotations

import torch
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten
ASKS_THE_HOST = {
    aten._local_scalar_dense.default,
    aten.nonzero.default,
    aten.masked_select.default,
    aten.unique_dim.default,
    aten._unique2.default,
    aten.equal.default,
    aten.lift_fresh.default,
    aten.bincount.default,
    aten.repeat_interleave.Tensor,
    aten.unique_consecutive.default,
}
"""What no CUDA graph can hold: a value that Python waits for, or one that Python brings."""


class Tape(TorchDispatchMode):
    """Writes down every operation with its tensors; undoes what they did to older memory."""

    def __init__(self):
        super().__init__()
        self.work = []
        self.before = {}
        self.own = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        is_mask = function in (aten.index.Tensor, aten.index_put_.default) and any(
            index is not None and index.dtype is torch.bool for index in args[1]
        )
        if function in ASKS_THE_HOST or is_mask:
            raise RuntimeError(f"{function} is not permitted in a recording")
        names = [argument.name for argument in function._schema.arguments]
        given = dict(zip(names, args, strict=False)) | kwargs
        for argument in function._schema.arguments:
            alias = argument.alias_info
            is_written = alias is not None and alias.is_write
            # Batch normalisation does not say in its schema that it moves these.
            is_written |= argument.name in ("running_mean", "running_var")
            if is_written and is_tensor(given.get(argument.name)):
                self.keep(given[argument.name])
        result = function(*args, **kwargs)
        flat = [one for one in tree(result) if isinstance(one, torch.Tensor)]
        inputs = {
            one.untyped_storage().data_ptr() for one in tree((args, kwargs)) if is_tensor(one)
        }
        made = [one for one in flat if one.untyped_storage().data_ptr() not in inputs]
        self.own |= {one.untyped_storage().data_ptr() for one in made}
        if made or function._schema.is_mutable:
            self.work.append((function, args, kwargs, flat, {id(one) for one in made}))
        return result

    def keep(self, tensor):
        at = place(tensor)
        if at not in self.own and at not in self.before:
            whole = torch.empty(0, dtype=torch.uint8).set_(tensor.untyped_storage())
            self.before[at] = (whole, whole.clone())

    def undo(self):
        for whole, value in self.before.values():
            whole.copy_(value)

    @torch.no_grad()
    def replay(self):
        for function, args, kwargs, recorded, made in self.work:
            again = [one for one in tree(function(*args, **kwargs)) if is_tensor(one)]
            for old, new in zip(recorded, again, strict=True):
                if id(old) in made:
                    old.copy_(new)


def place(tensor):
    """Where its memory begins."""
    return tensor.untyped_storage().data_ptr()


def is_tensor(value):
    return isinstance(value, torch.Tensor)


def tree(value):
    """Leaves of nested tuples, lists and dictionaries."""
    if isinstance(value, dict):
        return [leaf for one in value.values() for leaf in tree(one)]
    if isinstance(value, (tuple, list)):
        return [leaf for one in value for leaf in tree(one)]
    return [value]


def recorded(function):
    """What `lossbench.engine.strategies.graph.Recording` promises, on the CPU."""
    tape = Tape()
    with tape:
        result = function()
    tape.undo()
    return tape.replay, result
