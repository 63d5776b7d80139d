"""The operations on our own Triton kernels: any sizes, any batch strides.

Each has the signature and the meaning of its torch form, and gives None where it does not take
such inputs; the caller then takes the torch form. Selective scan, convolution, gate and norm have
a backward pass. Importing this package imports triton, which nothing else does. Whether a kernel
is compiled or interpreted (TRITON_INTERPRET=1) is settled then.

Products are sums of float32 products, never tensor cores' tf32, so that a float32 model keeps its
digits, and sums over programs are taken in order, so that a run gives the same bits again.
"""

from __future__ import annotations

from ssmbench.kernels.on_triton.convolution import causal_conv
from ssmbench.kernels.on_triton.gating import gate, gated_norm
from ssmbench.kernels.on_triton.scan import selective_scan
from ssmbench.kernels.on_triton.scores import selective_scan_influence, ssd_influence
from ssmbench.kernels.on_triton.short_ssd import ssd

__all__ = [
    "causal_conv",
    "gate",
    "gated_norm",
    "selective_scan",
    "selective_scan_influence",
    "ssd",
    "ssd_influence",
]
