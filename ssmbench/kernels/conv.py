"""The short depthwise causal convolution before the scan."""

from __future__ import annotations

import torch
from torch import Tensor


def causal_conv(
    x: Tensor, weight: Tensor, bias: Tensor | None, tail: Tensor | None = None
) -> Tensor:
    """Convolve each channel with its own K taps over the last K positions.

    Args:
        x: (batch, length, channels), length ≥ 0.
        weight: (channels, K); the last tap meets the present position.
        bias: (channels,) or None.
        tail: (batch, K − 1, channels), the inputs just before `x`; None stands for zeros.

    Returns:
        (batch, length, channels), in x's dtype.
    """
    length, k = x.shape[1], weight.shape[1]
    before = x.new_zeros(x.shape[0], k - 1, x.shape[2]) if tail is None else tail
    padded = torch.cat([before, x], 1)
    # Shifted multiply-adds need no transposed copy, unlike F.conv1d, and cost the same at K = 4.
    y = padded[:, :length] * weight[:, 0]
    for j in range(1, k):
        y = torch.addcmul(y, padded[:, j : j + length], weight[:, j])
    return y if bias is None else y + bias


def next_tail(x: Tensor, lengths: Tensor | None, k: int, tail: Tensor | None = None) -> Tensor:
    """Give the last K − 1 inputs of each row, reaching back into `tail` where a row is short.

    Args:
        x: (batch, length, channels), padded on the right.
        lengths: (batch,) valid positions of each row; None where all are `length`.
        k: taps of the convolution.
        tail: (batch, K − 1, channels) before `x`; None stands for zeros.

    Returns:
        (batch, K − 1, channels).
    """
    before = x.new_zeros(x.shape[0], k - 1, x.shape[2]) if tail is None else tail
    padded = torch.cat([before, x], 1)
    if lengths is None:
        return padded[:, x.shape[1] :]
    index = lengths[:, None] + torch.arange(k - 1, device=x.device)
    return padded.gather(1, index[..., None].expand(-1, -1, x.shape[2]))
