"""Fresh weights, drawn as the upstream code draws them: for training the zoo and for tests."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import nn

from ssmbench.models import mixers

if TYPE_CHECKING:
    from ssmbench.models.decoder import Decoder


def initialise(model: Decoder, *, seed: int) -> None:
    """Draw every parameter in place, from `seed` and the kind of device alone.

    Linear layers are normal with standard deviation 1/√fan_in (out_proj and fc2 divided by
    √(2·layers) more), dt_bias puts softplus(dt) log-uniformly in [0.001, 0.1], and A is
    −(1..N) for Mamba-1 and −U[1, 16] for Mamba-2, as in mamba_ssm.
    """
    generator = torch.Generator(model.device).manual_seed(seed)
    with torch.no_grad():
        nn.init.normal_(model.embedding.weight, std=0.02, generator=generator)
        depth = math.sqrt(2 * max(1, len(model.layers)))
        for name, module in model.named_modules():
            if isinstance(module, nn.Linear) and module.weight is not model.embedding.weight:
                std = 1 / math.sqrt(module.in_features)
                if name.endswith(("out_proj", "o_proj", "fc2")):
                    std /= depth
                nn.init.normal_(module.weight, std=std, generator=generator)
                if module.bias is not None:
                    module.bias.zero_()
            elif isinstance(module, mixers.Conv):
                bound = 1 / math.sqrt(module.weight.shape[2])
                nn.init.uniform_(module.weight, -bound, bound, generator=generator)
                if module.bias is not None:
                    module.bias.zero_()
        for module in model.modules():
            _initialise_scan(module, generator)


def _initialise_scan(module: nn.Module, generator: torch.Generator) -> None:
    if isinstance(module, mixers.SSDMixer):
        if module.dt_bias is not None and module.A_log is not None:
            module.dt_bias.copy_(_dt_bias(module.sizes.n_heads, generator))
            a = torch.empty(module.sizes.n_heads, device=generator.device)
            a.uniform_(1, 16, generator=generator)
            module.A_log.copy_(a.log())
        module.D.fill_(1)
    elif isinstance(module, mixers.SelectiveScanMixer):
        module.dt_proj.bias.copy_(_dt_bias(module.sizes.d_inner, generator))
        steps = torch.arange(1.0, module.sizes.d_state + 1, device=generator.device)
        module.A_log.copy_(steps.log().expand_as(module.A_log))
        module.D.fill_(1)


def _dt_bias(n: int, generator: torch.Generator) -> torch.Tensor:
    """Give the inverse softplus of n steps drawn log-uniformly from [0.001, 0.1]."""
    low, high = math.log(0.001), math.log(0.1)
    draw = torch.rand(n, generator=generator, device=generator.device)
    dt = draw.mul(high - low).add(low).exp().clamp_min(1e-4)
    return dt + torch.log(-torch.expm1(-dt))
