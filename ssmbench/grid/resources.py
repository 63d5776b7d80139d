"""What a grid may give to its attempts."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from ssmbench.grid.forms import Name, Part


class TimingResources(Part):
    """What differs for attempts that measure time; what is left out stays the same."""

    num_cpus: Annotated[float, Field(ge=0)] | None = None
    num_gpus: Annotated[float, Field(ge=0)] | None = None
    memory_gb: Annotated[float, Field(gt=0)] | None = None
    accelerator_type: Name | None = None
    labels: dict[str, str] | None = None


class ResourcesEntry(Part):
    """What one attempt of a cell is given; none of it changes a number."""

    num_cpus: Annotated[float, Field(ge=0)] = Field(default=1, description="Processor cores.")
    num_gpus: Annotated[float, Field(ge=0)] = Field(
        default=0, description="GPUs; 0 runs on the processor."
    )
    memory_gb: Annotated[float, Field(gt=0)] | None = Field(
        default=None, description="Main memory to reserve, where it should be."
    )
    accelerator_type: Name | None = Field(default=None, description="As Ray names it, e.g. H100.")
    labels: dict[str, str] = Field(default={}, description="Ray label selectors.")
    timing: TimingResources | None = Field(
        default=None, description="What differs for the suites that measure time."
    )
