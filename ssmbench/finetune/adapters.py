"""What is trained: low-rank adapters beside projections (LoRA, by peft), or every weight.

Source: Hu et al. 2021, arXiv:2106.09685; targets and sizes as in "On Pruning State-Space LLMs",
arXiv:2502.18886, whose public code left some adapters of Mamba-2 without any gradient: here
every trained tensor is shown to have one before the first step.
"""

from __future__ import annotations

import contextlib
import math
from typing import TYPE_CHECKING, TypeVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssmbench.errors import MethodError
from ssmbench.models.description import SSD, SelectiveScan
from ssmbench.surgery.projections import projections

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from ssmbench.grid.fine_tune import Recipe
    from ssmbench.models.decoder import Decoder

T = TypeVar("T")

_ADAPTER = "default"
_PATHS = {
    "mixers": ("mixer.in_proj", "mixer.out_proj"),
    "mlps": ("mlp.fc1", "mlp.fc2"),
}
# The standard deviation of B while gradients are checked: with B zero, A has none.
_PROBE_STD = 0.02


def target_names(model: Decoder, targets: str) -> list[str]:
    """List the projections that get adapters, layer by layer.

    Args:
        model: of any family; layers may differ, and may lack a mixer.
        targets: "mixers", in_proj and out_proj of the SSM mixers; "mlps", fc1 and fc2; "all".

    Raises:
        MethodError: the model has none of them.
    """
    found = []
    for i, layer in enumerate(model.description.layers):
        if targets in ("all", "mixers") and isinstance(layer.mixer, SSD | SelectiveScan):
            found += [f"layers.{i}.{path}" for path in _PATHS["mixers"]]
        if targets in ("all", "mlps") and layer.mlp is not None:
            found += [f"layers.{i}.{path}" for path in _PATHS["mlps"]]
    if not found:
        raise MethodError(
            f"{model.description.family}: found no projection for adapters with `targets: "
            f"{targets}`; expected SSM mixers or MLPs. Choose other `targets`."
        )
    return found


class Masked(nn.Module):
    """A projection whose adapters change none of its zeros: y = W x + s · (M ∘ B A) dropout(x).

    Trained like this, what is lost when the zeros are kept at the merge has no part in the loss
    either. M is 0 where W is.
    """

    def __init__(self, adapted: nn.Module) -> None:
        """Wrap a projection that has adapters."""
        super().__init__()
        self.adapted = adapted
        self.base_layer = cast("nn.Linear", adapted.base_layer)
        self.zero = self.base_layer.weight.detach() == 0

    def forward(self, x: Tensor) -> Tensor:
        """Map (…, inputs) to (…, outputs), in the type that the projection gives."""
        parts = (self.adapted.get_submodule(f"lora_{side}.{_ADAPTER}") for side in "AB")
        a, b = (cast("nn.Linear", part).weight for part in parts)
        dropout = self.adapted.get_submodule(f"lora_dropout.{_ADAPTER}")
        scale = cast("dict[str, float]", self.adapted.scaling)[_ADAPTER]
        change = (b @ a).masked_fill(self.zero, 0) * scale
        y: Tensor = self.base_layer(x)
        return y + F.linear(dropout(x).to(change.dtype), change).to(y.dtype)


def attach(
    model: Decoder, recipe: Recipe, *, seed: int, keep_zeros: bool
) -> dict[str, nn.Parameter]:
    """Make a model trainable, in place, and give what trains, by name.

    Adapters are float32 whatever the model is. As in the paper, A is drawn uniformly from
    ±1/√inputs, from `seed` alone, and B is zero, so that the model's outputs stay as they are.

    Args:
        model: with no parameter that requires a gradient.
        recipe: `adapters` says what trains.
        seed: of A.
        keep_zeros: adapters change no weight of a projection that is exactly zero.

    Returns:
        "layers.0.mixer.in_proj.A" (rank, inputs), ".B" (outputs, rank); or, where every weight
        trains, its name in the state dict.

    Raises:
        MethodError: the model has no projection of the kind that is to have adapters.
    """
    if recipe.adapters == "all":
        model.requires_grad_()
        return dict(model.named_parameters())
    from peft import LoraConfig, inject_adapter_in_model

    names = target_names(model, str(recipe.targets))
    config = LoraConfig(
        r=_given(recipe.rank),
        lora_alpha=_given(recipe.alpha),
        lora_dropout=_given(recipe.dropout),
        target_modules=names,
        bias="none",
    )
    inject_adapter_in_model(config, model, _ADAPTER)
    found: dict[str, nn.Parameter] = {}
    generator = torch.Generator().manual_seed(seed)
    for name in names:
        layer = model.get_submodule(name)
        for side in "AB":
            part = cast("nn.Linear", layer.get_submodule(f"lora_{side}.{_ADAPTER}"))
            part.float()
            found[f"{name}.{side}"] = cast("nn.Parameter", part.weight)
        _draw(found[f"{name}.A"], 1 / math.sqrt(found[f"{name}.A"].shape[1]), generator)
        if keep_zeros:
            _replace(model, name, Masked(layer))
    return found


def detach(model: Decoder) -> None:
    """Take the adapters off, in place: the model's modules and weights are those from before."""
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.Linear) and name.endswith(".base_layer"):
            _replace(model, name.partition(".adapted")[0].removesuffix(".base_layer"), module)
    if hasattr(model, "peft_config"):
        del model.peft_config
    model.requires_grad_(requires_grad=False).eval()


def merge(
    model: Decoder, recipe: Recipe, trained: Mapping[str, Tensor], *, keep_zeros: bool
) -> None:
    """Put what was trained into the weights of a plain model, in place.

    Every changed weight is a new tensor: whoever shares the old ones keeps them as they were.

    Args:
        model: as it was when training began.
        recipe: that of the training.
        trained: by the names that `attach` gave.
        keep_zeros: weights of projections that are exactly zero stay so; LoRA's sum alone
            would undo any unstructured pruning.
    """
    fixed = _zeros(model) if keep_zeros else {}
    with torch.no_grad():
        if recipe.adapters == "all":
            for name, parameter in model.named_parameters():
                found = trained[name].to(parameter.device, parameter.dtype, copy=True)
                _put(parameter, found, fixed.get(name))
            return
        scale = _given(recipe.alpha) / _given(recipe.rank)
        for name in target_names(model, str(recipe.targets)):
            weight = cast("nn.Parameter", model.get_submodule(name).weight)
            a, b = (trained[f"{name}.{side}"].to(weight.device) for side in "AB")
            found = (weight.float() + (b @ a) * scale).to(weight.dtype)
            _put(weight, found, fixed.get(f"{name}.weight"))


def _put(parameter: nn.Parameter, found: Tensor, zero: Tensor | None) -> None:
    parameter.data = found if zero is None else found.masked_fill_(zero, 0)


def _zeros(model: Decoder) -> dict[str, Tensor]:
    """Mark the zeros of all projections, which are what unstructured methods prune."""
    found = projections(model, "both", "all")
    return {f"{p.where}.weight": p.module.weight.detach() == 0 for p in found}


class Zeros:
    """The zeros of a model's projections, put back after each step of its training."""

    def __init__(self, model: Decoder, trained: Mapping[str, nn.Parameter]) -> None:
        """Note where they are; of a model whose every weight trains."""
        self._at = [(trained[n], zero) for n, zero in _zeros(model).items() if n in trained]

    def restore(self) -> None:
        """Set them to zero again."""
        with torch.no_grad():
            for parameter, zero in self._at:
                parameter.masked_fill_(zero, 0)


def check_gradients(trained: Mapping[str, nn.Parameter], backward: Callable[[], None]) -> None:
    """See to it that the loss's gradient reaches everything that is to be trained.

    B is zero at the start, which makes the gradient of A zero as well: for this one backward
    pass it is drawn at random. Afterwards parameters and gradients are as they were.

    Args:
        trained: by name.
        backward: runs one forward and backward pass of the loss.

    Raises:
        MethodError: a tensor has no gradient, or one that is zero or not finite; all are named.
    """
    with _probing(trained):
        backward()
        problems = [f"{name}: {why}" for name, p in trained.items() if (why := _wrong(p.grad))]
    for parameter in trained.values():
        parameter.grad = None
    if problems:
        listed = "\n".join(f"  {p}" for p in problems[:12])
        more = f"\n  and {len(problems) - 12} more" if len(problems) > 12 else ""
        raise MethodError(
            f"fine-tuning: {len(problems)} of {len(trained)} trained tensors would not learn; "
            "expected a finite gradient that is not zero for each. Choose other `targets` or "
            f"`adapters`:\n{listed}{more}"
        )


@contextlib.contextmanager
def _probing(trained: Mapping[str, nn.Parameter]) -> Iterator[None]:
    generator = torch.Generator().manual_seed(0)
    empty = [p for name, p in trained.items() if name.endswith(".B") and not p.any()]
    with torch.no_grad():
        for parameter in empty:
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * _PROBE_STD)
    try:
        yield
    finally:
        with torch.no_grad():
            for parameter in empty:
                parameter.zero_()


def _wrong(gradient: Tensor | None) -> str | None:
    if gradient is None:
        return "no gradient"
    if not bool(torch.isfinite(gradient).all()):
        return "a gradient that is not finite"
    return None if bool(gradient.any()) else "a gradient of zero"


def _replace(model: nn.Module, name: str, module: nn.Module) -> None:
    path, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(path), leaf, module)


def _draw(weight: nn.Parameter, bound: float, generator: torch.Generator) -> None:
    with torch.no_grad():
        weight.copy_((torch.rand(weight.shape, generator=generator) * 2 - 1) * bound)


def _given(value: T | None) -> T:
    """Give a value that every recipe for adapters has."""
    assert value is not None
    return value
