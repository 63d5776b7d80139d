"""Which machines of a Ray cluster can hold an attempt; plain functions over `ray.nodes()`."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from ssmbench.execute.executor import Demand
    from ssmbench.plan.cells import Resources


NODE_LABEL = "ray.io/node-id"


def options(resources: Resources, avoid: Collection[str] = ()) -> dict[str, Any]:
    """Translate resources into Ray's options of a task that keeps away from some nodes."""
    chosen: dict[str, Any] = {"num_cpus": resources.num_cpus, "num_gpus": resources.num_gpus}
    if resources.memory_gb is not None:
        chosen["memory"] = int(resources.memory_gb * 2**30)
    if resources.accelerator_type is not None:
        chosen["accelerator_type"] = resources.accelerator_type
    labels = dict(resources.labels)
    if avoid:
        # Who names a node in the grid means it.
        labels.setdefault(NODE_LABEL, f"!in({','.join(sorted(avoid))})")
    if labels:
        chosen["label_selector"] = labels
    return chosen


def usable(nodes: Sequence[Mapping[str, Any]], demand: Demand) -> list[Mapping[str, Any]]:
    """Give the nodes that an attempt may run on, idle or not."""
    wanted = _shared(demand)
    return [n for n in nodes if fits(n, wanted) and n["NodeID"] not in demand.avoid]


def asked_of(nodes: Sequence[Mapping[str, Any]], demand: Demand) -> Resources:
    """Give what an attempt has to ask for so that it gets what it needs.

    One that measures time on GPUs asks for whole ones. On the processor it asks for all CPUs of
    the largest machines that fit, which is what keeps others away.
    """
    wanted = _shared(demand)
    if not demand.alone or wanted.num_gpus:
        return wanted
    sizes = (node["Resources"].get("CPU", 0) for node in usable(nodes, demand))
    return dataclasses.replace(wanted, num_cpus=max(sizes, default=wanted.num_cpus))


def _shared(demand: Demand) -> Resources:
    """Give a demand's resources with whole GPUs where they are not to be shared."""
    resources = demand.resources
    if not demand.alone:
        return resources
    return dataclasses.replace(resources, num_gpus=math.ceil(resources.num_gpus))


def problem(nodes: Sequence[Mapping[str, Any]], resources: Resources) -> str | None:
    """Say why no node can give these resources; None if one can."""
    if resources.num_gpus > 1 and resources.num_gpus % 1:
        return f"asked for {resources.num_gpus:g} GPUs; more than one must be a whole number"
    if any(fits(node, resources) for node in nodes):
        return None
    return f"asked for {asked(resources)}; found {found(nodes)}"


def _wanted(resources: Resources) -> dict[str, float]:
    wanted = {"CPU": resources.num_cpus, "GPU": resources.num_gpus}
    if resources.memory_gb is not None:
        wanted["memory"] = resources.memory_gb * 2**30
    return {name: amount for name, amount in wanted.items() if amount > 0}


def fits(node: Mapping[str, Any], resources: Resources) -> bool:
    """Tell whether the whole node, if idle, could hold one attempt."""
    has: Mapping[str, float] = node["Resources"]
    if any(has.get(name, 0) < amount for name, amount in _wanted(resources).items()):
        return False
    kind = resources.accelerator_type
    if kind is not None and f"accelerator_type:{kind}" not in has:
        return False
    labels = node.get("Labels", {})
    return all(_label_fits(labels.get(k), v) for k, v in resources.labels.items())


def _label_fits(value: str | None, wanted: str) -> bool:
    """Match Ray's selectors: `x`, `!x`, `in(x,y)`, `!in(x,y)`."""
    positive = wanted.removeprefix("!")
    names = [positive]
    if positive.startswith("in(") and positive.endswith(")"):
        names = [name.strip() for name in positive[3:-1].split(",")]
    return (value in names) != wanted.startswith("!")


def capacity(node: Mapping[str, Any], resources: Resources) -> int:
    """Count the attempts that an idle node holds at once."""
    wanted = _wanted(resources)
    has: Mapping[str, float] = node["Resources"]
    return min((int(has[name] / amount) for name, amount in wanted.items()), default=1)


def asked(resources: Resources) -> str:
    """Say what an attempt wants, for people."""
    parts = [f"{resources.num_cpus:g} CPUs"]
    if resources.num_gpus:
        parts.append(f"{resources.num_gpus:g} GPUs")
    if resources.memory_gb is not None:
        parts.append(f"{resources.memory_gb:g} GB of memory")
    if resources.accelerator_type is not None:
        parts.append(f"accelerator {resources.accelerator_type}")
    parts += [f"label {k}={v}" for k, v in resources.labels.items()]
    return ", ".join(parts)


def found(nodes: Sequence[Mapping[str, Any]]) -> str:
    """Describe the nodes, equal ones once."""
    described: dict[str, int] = {}
    for node in nodes:
        has = node["Resources"]
        parts = [f"{has.get('CPU', 0):g} CPUs", f"{has.get('GPU', 0):g} GPUs"]
        parts.append(f"{has.get('memory', 0) / 2**30:.0f} GB")
        parts += sorted(name for name in has if name.startswith("accelerator_type:"))
        text = ", ".join(parts)
        described[text] = described.get(text, 0) + 1
    listed = "; ".join(f"{n} × ({text})" for text, n in described.items())
    return listed or "no machine"
