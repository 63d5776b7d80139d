"""Run mamba_ssm's Triton kernels through the adapter, on the CPU, in Triton's interpreter.

Upstream launches within `torch.cuda.device` and lets each kernel be tuned: neither is there
without a GPU, so the one does nothing here and the other takes the first configuration.
"""

from __future__ import annotations

import contextlib
import sys
from types import SimpleNamespace

import torch
import triton
from kernel_helpers import off, ssd_gradients, ssd_without_rates
from triton.runtime import autotuner

TUNED = ("num_warps", "num_stages", "num_ctas", "maxnreg")


def untuned(self, fn, arg_names, configs, key, *_args, **_kwargs):
    self.configs, self.keys, self.fn, self.base_fn = configs, key, fn, fn
    self.arg_names, self.cache = arg_names, {}


def run_first(self, *args, **kwargs):
    config = self.best_config = (self.configs or [triton.Config({})])[0]
    chosen = {k: v for k, v in config.all_kwargs().items() if k not in TUNED}
    if config.pre_hook is not None:
        config.pre_hook({**dict(zip(self.arg_names, args, strict=False)), **kwargs, **chosen})
    return self.fn.run(*args, **kwargs, **chosen)


def main() -> None:
    torch.cuda.device = lambda *_: contextlib.nullcontext()
    torch.cuda.get_device_properties = lambda *_: SimpleNamespace(multi_processor_count=4)
    autotuner.Autotuner.__init__, autotuner.Autotuner.run = untuned, run_first
    from ssmbench.kernels import check, on_mamba_ssm

    for dtype, limit in ((torch.float32, 5e-6), (torch.float16, 5e-3)):
        error = check.error("ssd", on_mamba_ssm.ssd, "cpu", dtype)
        # No bfloat16: the interpreter multiplies its bits.
        sys.stdout.write(f"ssd: off by {error:.1e} in {dtype}\n")
        assert error < limit
    found = ssd_gradients(on_mamba_ssm.ssd, torch.float32)
    expected = ssd_gradients(ssd_without_rates, torch.float64)
    error = max(off(found[name], grad) for name, grad in expected.items())
    sys.stdout.write(f"gradients: off by {error:.1e}\n")
    assert error < 5e-6


if __name__ == "__main__":
    main()
