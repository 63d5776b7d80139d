"""A stand-in for CUDA graphs on a processor: what was captured runs again on the same tensors."""

from __future__ import annotations

from contextlib import contextmanager
from types import SimpleNamespace

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

# What of aten asks a device for a value, or takes one to it; the copy is how torch.tensor begins.
FORBIDDEN = (
    "_local_scalar_dense", "item", "is_nonzero", "equal", "allclose", "nonzero", "masked_select",
    "lift_fresh",
)  # fmt: skip


class Recorder(TorchDispatchMode):
    """Writes down what is queued, as a capture does; refuses what would ask the device."""

    def __init__(self, queued):
        super().__init__()
        self.queued = queued

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        chooses = name == "index" and any(t.dtype == torch.bool for t in tensors(args[1]))
        if chooses or name in FORBIDDEN:
            raise RuntimeError("operation not permitted when stream is capturing.")
        out = func(*args, **(kwargs or {}))
        self.queued.append((func, args, kwargs or {}, out))
        return out


class Graphs:
    """Stands for torch.cuda: graphs that run what was captured again, on the same tensors."""

    def __init__(self, monkeypatch):
        self.told = []
        self.stream = SimpleNamespace(wait_stream=lambda _: self.told.append("side > main"))
        current = SimpleNamespace(wait_stream=lambda _: self.told.append("main > side"))
        graphs = self

        class Graph:
            def __init__(self):
                self.queued = []

            @torch.inference_mode()
            def replay(self):
                graphs.told.append("replay")
                for func, args, kwargs, out in self.queued:
                    again = func(*args, **kwargs)
                    held = {t.untyped_storage().data_ptr() for t in tensors((args, kwargs))}
                    for old, new in zip(tensors(out), tensors(again), strict=True):
                        # A view of what is there shows it already.
                        if new.untyped_storage().data_ptr() not in held:
                            old.copy_(new)

        @contextmanager
        def capture(graph, *, stream, capture_error_mode):
            assert stream is self.stream
            assert capture_error_mode == "thread_local"
            self.told.append("begin")
            with Recorder(graph.queued):
                yield
            self.told.append("end")

        @contextmanager
        def entered(stream):
            assert stream is self.stream
            self.told.append("enter")
            try:
                yield
            finally:
                self.told.append("leave")

        for name, fake in {
            "Stream": lambda device: self.stream,
            "current_stream": lambda device: current,
            "stream": entered,
            "CUDAGraph": Graph,
            "graph": capture,
        }.items():
            monkeypatch.setattr(torch.cuda, name, fake)


def tensors(tree):
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)]
