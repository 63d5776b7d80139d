"""What figures are called in result files: sizes included, so that a trial's fill no row."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

SIX_TASKS = (
    "lambada_openai", "hellaswag", "piqa", "arc_easy", "arc_challenge", "winogrande",
)  # fmt: skip


def scoring(
    model: str, tasks: Sequence[str], *, shots: int, limit: int, chunk: int | None = None
) -> str:
    """Name lm-eval's time over ours; `chunk` is transformers' chunk_size, None for its default."""
    name = "six_tasks" if tuple(tasks) == SIX_TASKS else "_".join(tasks)
    return f"{name}_{shots}shot_{limit}docs_{model}" + (f"_chunk{chunk}" if chunk else "")


def mixer(model: str, clock: str, *, batch: int, length: int) -> str:
    """Name a mixer's time over its products', by the clock "cpu" or "wall"."""
    return f"mixer_{model}_B{batch}_L{length}_{clock}"


def continuation(*, batch: int, length: int) -> str:
    """Name transformers' time over ours of Mamba-2's continuations."""
    return f"continuation_mamba2_B{batch}_L{length}"


def simba(model: str, length: int, ratio: float, bias: str = "input") -> str:
    """Name the time saved over the FLOPs saved; `bias` is the method's."""
    name = f"simba_saved_{model}_T{length}_ratio{ratio:g}"
    return name if bias == "input" else f"{name}_bias_{bias}"


def processes(documents: int) -> str:
    """Name the time of one process of two threads over that of two processes of one."""
    return f"one_process_of_two_threads_over_two_of_one_{documents}docs"


def half(model: str, way: str, phase: str, length: int) -> str:
    """Name float32's time, or bytes, over those of half precision held one "way"."""
    return f"half_{way}_{phase}_{model}_T{length}"
