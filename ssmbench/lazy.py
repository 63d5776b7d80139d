"""Stand-ins for modules that are slow to import.

    if TYPE_CHECKING:
        import torch
    else:
        from ssmbench.lazy import torch

The real module is imported at the first attribute read, so a method's parameters can be
checked without paying for torch (seconds). No attribute may be read at module level:
not even `@torch.no_grad()`.
"""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any


class LazyModule(ModuleType):
    """Import `name` when an attribute of it is first read."""

    def __getattr__(self, attribute: str) -> Any:
        if attribute.startswith("__") and attribute.endswith("__"):
            raise AttributeError(attribute)
        return getattr(importlib.import_module(self.__name__), attribute)


torch = LazyModule("torch")
functional = LazyModule("torch.nn.functional")
