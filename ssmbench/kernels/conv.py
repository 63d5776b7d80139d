"""The short depthwise causal convolution before the scan."""

from __future__ import annotations

import torch
import torch.nn.functional as F
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
    if x.device.type == "cpu":
        return _channels_last(x, weight, bias, tail)
    before = x.new_zeros(x.shape[0], k - 1, x.shape[2]) if tail is None else tail
    padded = torch.cat([before, x], 1)
    # In float32 throughout: a device's own convolutions may take fewer digits.
    y = padded[:, :length] * weight[:, 0]
    for j in range(1, k):
        y = torch.addcmul(y, padded[:, j : j + length], weight[:, j])
    return y if bias is None else y + bias


def _channels_last(x: Tensor, weight: Tensor, bias: Tensor | None, tail: Tensor | None) -> Tensor:
    """Convolve as an image of one line, whose channels already stand last: nothing is moved."""
    dtype = torch.promote_types(x.dtype, weight.dtype)
    if not x.shape[1]:
        return x.to(dtype)
    padding = weight.shape[1] - 1 if tail is None else 0
    padded = x if tail is None else torch.cat([tail, x], 1)
    line = padded.transpose(1, 2)[:, :, None].to(dtype)
    taps, bias = weight[:, None, None].to(dtype), None if bias is None else bias.to(dtype)
    y = F.conv2d(line, taps, bias, padding=(0, padding), groups=len(weight))
    return y[:, :, 0, : x.shape[1]].transpose(1, 2)


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
    length = x.shape[1]
    if lengths is None or not length:
        last = x[:, max(0, length - k + 1) :]
        return torch.cat([before[:, last.shape[1] :], last], 1)
    row = torch.arange(len(x), device=x.device)[:, None]
    index = lengths[:, None] + torch.arange(k - 1, device=x.device)
    own = x[row, (index - (k - 1)).clamp_min(0)]
    older = before[row, index.clamp_max(k - 2)]
    return torch.where((index < k - 1)[..., None], older, own)
