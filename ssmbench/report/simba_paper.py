"""Tables 1 to 7 of Simba (arXiv:2505.20698), ours beside the few numbers of it that are public.

| table | what of a run it shows | grid |
|---|---|---|
| 1 | the six tasks few-shot, simba at ratio 0.3 against dense | `grids/simba.yaml` |
| 2 | perplexity by context: dense, simba at 0.9, the same trained by dense+sparse | `grids/simba-fine-tune.yaml` |
| 3 | shots, metric and lengths of the six tasks | `grids/simba.yaml` |
| 4 | the six tasks and their FLOPs: dense, simba at 0.9, Pythia | `grids/simba.yaml` |
| 5 | perplexity by context and its FLOPs: dense, simba at 0.9 | `grids/simba-long.yaml` |
| 6 | time of a prompt by length, simba at 0.9 against dense, beside quality | `grids/simba-time.yaml` |
| 7 | mean of the six tasks by scale, simba at 0.3 against dense, and the state's size | `grids/simba.yaml` |

Simba's table bodies are not public; rows and columns follow its text. Its r, the part of the prompt
that is left at the last layer, is 1 − ratio. Of simba the rows with its usual parameters count.
"""  # noqa: E501 - a table

from __future__ import annotations

from typing import TYPE_CHECKING

from ssmbench.report import _simba_long, _simba_tasks
from ssmbench.report._paper import PaperRun

if TYPE_CHECKING:
    from ssmbench.report._results import Results
    from ssmbench.report._table import Table

TITLE = "Simba: its tables"
ORDER = 51


def build(results: Results) -> list[Table]:
    """Build the seven tables; none for a run without simba.

    Args:
        results: the run's.
    """
    run = PaperRun(results, ("simba",))
    if not run.models(("simba",)):
        return []
    return [
        _simba_tasks.against_dense(run),
        _simba_long.fine_tuned(run),
        _simba_tasks.settings(run),
        _simba_tasks.everything(run),
        _simba_long.contexts(run),
        _simba_long.times(run),
        _simba_tasks.scales(run),
    ]
