"""The weights that a zoo model's training begins with: what makes recall learnable in minutes."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ssmbench.models import mixers
from ssmbench.models.attention import AttentionMixer, frequencies
from ssmbench.models.decoder import Decoder
from ssmbench.models.initialise import initialise

if TYPE_CHECKING:
    from ssmbench.zoo.recipes import Recipe

# A key head of the second layer each: the word so many words back is looked for where it stands
# so many words back. "whose is lamp ?" finds "lamp" itself (1, 0), "where is lamp ?" the place
# told two words behind it (1, 2).
MATCHES = ((1, 0), (1, 2), (2, 2), (0, 1))


def fresh(recipe: Recipe) -> Decoder:
    """Give the model that training begins with, from the recipe's seed alone."""
    model = Decoder(recipe.description)
    initialise(model, seed=recipe.seed)
    with torch.no_grad():
        model.embedding.weight.mul_(recipe.embedding_std / 0.02)
        if recipe.slow_decay:
            for module in model.modules():
                _slow_decay(model, module, recipe.embedding_std)
        if recipe.look_back:
            _look_back(model, recipe.embedding_std, torch.Generator().manual_seed(recipe.seed))
    return model


def _slow_decay(model: Decoder, mixer: nn.Module, std: float) -> None:
    """Begin with A = −1, or, in a discrete mixer, with decay sigmoid(5) = 0.993 at every word.

    A discrete mixer's decay has no parameter and no bias of its own: it is sigmoid(−a), a
    projected from the normed input, so a plain start forgets half of the state with every word.
    So channel 0 of the embedding begins as a constant, and a reads it alone.
    """
    if not isinstance(mixer, mixers.SSDMixer | mixers.SelectiveScanMixer):
        return
    if mixer.A_log is not None:
        mixer.A_log.zero_()
    elif isinstance(mixer, mixers.SSDMixer):
        constant = 2 * std
        normed = constant / math.sqrt(std**2 + constant**2 / model.description.d_model)
        model.embedding.weight[:, 0] = constant
        rows = mixer.in_proj.weight[-mixer.sizes.n_heads :]
        rows.zero_()
        rows[:, 0] = -5 / normed


def _look_back(model: Decoder, std: float, generator: torch.Generator) -> None:
    """Begin with a first layer that brings each word those before it, and a second that matches.

    Softmax attention finds an answer by a word that stands beside it, which takes two layers that
    are of no use without one another; from a plain start they do not find each other in time. So
    the first layer begins by writing a few numbers about the word itself and those one, two and
    three back, each where no other is written, and the second by comparing those (`MATCHES`).
    """
    first, second = model.layers[0].mixer, model.layers[1].mixer
    assert isinstance(second, AttentionMixer)
    d_model, head_dim = model.description.d_model, second.sizes.head_dim
    # The channels that turn fast cannot be compared; in a hybrid they are two pairs of eight.
    width, strength = (8, 1.7) if isinstance(first, AttentionMixer) else (head_dim, 1.5)
    n = len(MATCHES)
    read = _orthonormal(d_model, width, generator)
    written = _orthonormal(d_model, width * n, generator).view(n, width, d_model)
    if isinstance(first, AttentionMixer):
        _attend_back(first, read, std * written)
    else:
        assert isinstance(first, mixers.SSDMixer)
        _convolve_back(first, read, std * written)
        model.embedding.weight[:, 0] = 2 * std
    for i, (asked, told) in enumerate(MATCHES):
        last = slice(-width, None)
        per_key = second.sizes.n_heads // second.sizes.n_kv_heads
        key = second.k_proj.weight.unflatten(0, (-1, head_dim))[i, last]
        key += strength * written[told]
        for query in second.q_proj.weight.unflatten(0, (n, per_key, head_dim))[i]:
            query[last] += strength * written[asked]


def _convolve_back(mixer: mixers.SSDMixer, read: Tensor, written: Tensor) -> None:
    """Let the convolution pass group g's x on g words later, and the gate stand open.

    The gate reads channel 0 of the embedding, which begins as a constant, more than all else.
    """
    sizes = mixer.sizes
    e, p, per_group = sizes.d_inner, sizes.head_dim, sizes.heads_per_group
    mixer.in_proj.weight[:e] *= 0.3
    mixer.in_proj.weight[:e, 0] += 1
    taps = mixer.conv1d.weight[: sizes.d_x, 0]
    taps.zero_()
    for g in range(sizes.n_groups):
        mixer.in_proj.weight[e + g * p : e + (g + 1) * p] = 2 * read
        taps[g * p : (g + 1) * p, -1 - g] = 1
        for h in range(g * per_group, (g + 1) * per_group):
            mixer.out_proj.weight[:, h * p : (h + 1) * p] += written[g].T / per_group


def _attend_back(mixer: AttentionMixer, read: Tensor, written: Tensor) -> None:
    """Let head h attend to the word h words back.

    Biases of query and key do it: turned by their positions, they agree best at that distance.
    """
    sizes = mixer.sizes
    size = math.sqrt(10 * math.sqrt(sizes.head_dim))
    query = mixer.q_proj.bias.view(sizes.n_heads, sizes.head_dim)
    key = mixer.k_proj.bias.view(sizes.n_heads, sizes.head_dim)
    angles = torch.arange(sizes.n_heads)[:, None] * frequencies(sizes)[:2]
    half = sizes.rotary_dim // 2
    key[:, :2] = size
    query[:, :2] = size * angles.cos()
    query[:, half : half + 2] = -size * angles.sin()
    for h in range(sizes.n_heads):
        of_head = slice(h * sizes.head_dim, h * sizes.head_dim + len(read))
        mixer.v_proj.weight[of_head] = read
        mixer.o_proj.weight[:, of_head] += written[h].T


def _orthonormal(columns: int, rows: int, generator: torch.Generator) -> Tensor:
    """Draw `rows` orthonormal rows."""
    orthonormal: Tensor = torch.linalg.qr(torch.randn(columns, rows, generator=generator))[0]
    return orthonormal.T
