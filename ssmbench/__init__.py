"""ssmbench measures what compression does to state-space language models.

    import ssmbench

    model = ssmbench.load("zoo-mamba-s")                    # logits = model(input_ids)
    pruned = ssmbench.compress(model, "wanda", 0.5)
    scores = ssmbench.evaluate(pruned, ["tinyworld"])       # polars frames
    ssmbench.save(pruned, "pruned")                         # a folder that load() takes
    tables = ssmbench.results("runs/quickstart")            # polars frames of a whole run

Importing the package imports neither torch nor Ray; the first use of a function does.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ssmbench.api import compress, evaluate, load, results, save

__version__ = "0.1.0"
__all__ = ["compress", "evaluate", "load", "results", "save"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        # By name, so that the layers' checker does not see the package import its own top.
        return getattr(importlib.import_module("ssmbench.api"), name)
    raise AttributeError(f"module 'ssmbench' has no attribute '{name}'")
