"""A device that is not the host, on a machine without one.

It registers the device `standin` with torch: a tensor on it holds a tensor of the host, where every
operation is computed, but operations that mix the two raise, `numpy()` too. It must be imported
before the process's first backward pass (tests/conftest.py): torch counts its devices then.
"""

import sys
import traceback
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import arg_tree_leaves, tree_map_only
from torch.utils.backend_registration import (
    _DummyBackendModule,
    _setup_privateuseone_for_python_backend,
)

AGENTS = str(Path(__file__).resolve().parents[1] / "agents")
aten = torch.ops.aten
COPIES = {aten.copy_.default, aten._to_copy.default, aten._copy_from.default}
INDEXING = {aten.index, aten.index_put_, aten._index_put_impl_}
READS = {aten._local_scalar_dense, aten.nonzero, aten.masked_select, aten.equal}
reads_raise = False  # whether the host may not wait for a value of the device


class Backend(_DummyBackendModule):
    """What torch asks of a device's module."""

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16]


_setup_privateuseone_for_python_backend("standin", Backend())
DEVICE = torch.device("standin", 0)


class Remote(Tensor):
    """A tensor on the stand-in device."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> "Remote":
        shape = held.shape, held.stride(), held.storage_offset()
        remote = Tensor._make_wrapper_subclass(cls, *shape, dtype=held.dtype, device=DEVICE)
        remote.held = held
        return remote

    def tolist(self) -> Any:
        return self.cpu().tolist()

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return compute(func, args, kwargs or {})


def compute(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """One operation of the device. RuntimeError if the host's tensors take part.

    Numbers (0-d tensors) may, except in lists of tensors, as of a fused optimiser.
    """
    tensors = [x for x in arg_tree_leaves(*args, **kwargs) if isinstance(x, Tensor)]
    numbers = [x for x in (*args, *kwargs.values()) if isinstance(x, Tensor) and not x.ndim]
    of_host = [x for x in tensors if not isinstance(x, Remote)]
    if func not in COPIES and any(all(x is not number for number in numbers) for x in of_host):
        raise RuntimeError(f"{func}: tensors of the host among those of the device")
    if func is aten.record_stream.default:
        return None
    device = kwargs.get("device")
    to_host = device is not None and device.type == "cpu"
    to_host |= func is aten.copy_.default and not isinstance(args[0], Remote)
    # The size of the result depends on the mask.
    masks = func.overloadpacket in INDEXING and any(x.dtype is torch.bool for x in tensors[1:])
    if reads_raise and (to_host or masks or func.overloadpacket in READS):
        raise RuntimeError(f"{func}: the host waits for the device")
    kwargs |= {"device": torch.device("cpu")} if device else {}
    args, kwargs = tree_map_only(Remote, lambda x: x.held, (args, kwargs))
    out = func(*args, **kwargs)
    if to_host:
        return out
    written = [x for x in tensors if isinstance(x, Remote) and x.held is out]
    return written[0] if written else tree_map_only(Tensor, Remote, out)


def lstm_cell(x: Tensor, h: Tensor, c: Tensor, *biases: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """torch's fused cell, which the host lacks: [B, 4 H] of input and state -> h, c [B, H]."""
    gates = x + h + sum(biases)
    i, f, g, o = gates.chunk(4, dim=-1)
    c = f.sigmoid() * c + i.sigmoid() * g.tanh()
    return o.sigmoid() * c.tanh(), c, gates


libraries = [torch.library.Library("_", "IMPL"), torch.library.Library("aten", "IMPL")]
libraries[0].fallback(lambda op, *args, **kwargs: compute(op, args, kwargs), "PrivateUse1")
libraries[1].impl("_thnn_fused_lstm_cell", lstm_cell, "AutogradPrivateUse1")


class Moves(TorchFunctionMode):
    """Notes where the agents' code moves a tensor to the device or makes one there, and forgets one
    of these moves.

    A move is named by its line, the two that called it, and its place in a run of such moves:
    `Module.to` has one for each weight.
    """

    def __init__(self, forgotten: tuple[str, int] | None = None) -> None:
        super().__init__()
        self.forgotten, self.made = forgotten, set[tuple[str, int]]()
        self._line, self._place = "", 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, caller = kwargs or {}, sys._getframe(1)
        devices = [x for x in (*args, *kwargs.values()) if isinstance(x, torch.device)]
        makes = "device" in kwargs and caller.f_code.co_filename.startswith(AGENTS)
        moves = func is Tensor.to and args[0].device.type != DEVICE.type
        if not any(x.type == DEVICE.type for x in devices) or not (moves or makes):
            return func(*args, **kwargs)
        # innermost first
        stack = [(frame.f_code.co_filename, line) for frame, line in traceback.walk_stack(caller)]
        ours = [f"{Path(file).name}:{line}" for file, line in stack if file.startswith(AGENTS)]
        line = " < ".join(ours[:3])
        self._place = self._place + 1 if line == self._line else 0
        self._line = line
        self.made.add((line, self._place))
        if (line, self._place) == self.forgotten:
            if func is Tensor.to:
                return args[0]
            del kwargs["device"]
        return func(*args, **kwargs)
