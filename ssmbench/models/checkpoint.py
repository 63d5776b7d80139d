"""Reading checkpoints, in the published layouts and in ssmbench's own; `export` writes them."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ssmbench import plugins
from ssmbench.errors import CheckpointError, DataError
from ssmbench.models import layout, precision
from ssmbench.models import source as sources
from ssmbench.models.decoder import Decoder, Origin
from ssmbench.models.export import save
from ssmbench.models.keys import fits, rename
from ssmbench.models.precision import DTYPES

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from types import ModuleType

    from ssmbench.models.description import Description

__all__ = ["DTYPES", "download", "load", "read", "save", "tensors", "weight_files"]


def load(
    text: str,
    *,
    tokenizer: str | None = None,
    revision: str | None = None,
    dtype: str = "float32",
    device: str = "cpu",
    name: str | None = None,
) -> Decoder:
    """Load a model from the zoo, a folder or the hub, ready to evaluate.

    `dtype` says what to round the weights to, whatever the files hold: float32 holds every stored
    number exactly. Projections run in it as well, and scans, norms and the residual stream in
    float32; but for half precision on a processor that has no units for it, where all is computed
    in float32 and only the weights of projections and the embedding are held in `dtype`.

    Args:
        text: "zoo:NAME", "folder:PATH", "hub:ID", a folder, or a hub id.
        tokenizer: folder or hub id of the tokenizer; None for the model's own.
        revision: hub revision.
        dtype: "float32", "bfloat16" or "float16".
        device: "cpu", "cuda" or "cuda:N".
        name: how the model is called in messages; `text` where None.

    Raises:
        CheckpointError: the folder is not a model, or a tensor is missing, extra or wrongly shaped.
    """
    kind, _, rest = text.partition(":")
    plain = rest if kind in ("folder", "hub") else text
    found = sources.resolve(plain, tokenizer=tokenizer, revision=revision)
    folder = sources.folder_of(found.source)
    if folder is None:
        folder = download(plain, revision=revision)
    origin = Origin(name or text, found.source, found.tokenizer, revision)
    computed = DTYPES[precision.compute_dtype(dtype, device)]
    return read(folder, origin=origin, dtype=DTYPES[dtype], computed=computed).to(device)


def download(hub_id: str, *, revision: str | None) -> Path:
    """Bring a model from the hub (or its local cache) and give its folder.

    Raises:
        DataError: the hub cannot be reached and the model is not in the cache.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    patterns = ["*.json", "*.safetensors", "*.bin", "*.model", "*.txt"]
    try:
        return Path(snapshot_download(hub_id, revision=revision, allow_patterns=patterns))
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(
            f"model {hub_id}: found neither in the hub's local cache nor on the hub ({reason}). "
            f"Download it where there is a network and name its folder instead."
        ) from error


def read(
    folder: Path,
    *,
    origin: Origin | None = None,
    dtype: torch.dtype = torch.float32,
    computed: torch.dtype | None = None,
) -> Decoder:
    """Read a model folder in any known layout; on the CPU, in evaluation mode.

    Of its tensors one at a time is held in another type than the file's or the model's.

    Args:
        folder: of the model.
        origin: kept in the model.
        dtype: what every number is rounded to.
        computed: what projections run in, `dtype` or wider; `dtype` where None.

    Raises:
        CheckpointError: the folder is not a model, or a tensor is missing, extra or wrongly shaped.
    """
    family = plugins.load("family", sources.recognise(folder))
    description = sources.describe(folder)
    with torch.device("meta"):
        model = Decoder(description, origin=origin)
    expected = dict(model.state_dict())
    problems: list[str] = []
    # A tensor that was read may still lie in its file.
    rounded = ((name, tensor.to(dtype, copy=True)) for name, tensor in tensors(folder))
    if layout.is_ours(sources.json_files(folder)):
        given = dict(rounded)
    else:
        given = _from_upstream(rounded, family, description, problems)
    if description.tie_embeddings:
        given.setdefault("lm_head.weight", given.get("embedding.weight", torch.empty(0)))
    for name, own in expected.items():
        if name not in given:
            problems.append(f"{name}: missing")
        elif given[name].shape != own.shape:
            shapes = f"found {tuple(given[name].shape)}, expected {tuple(own.shape)}"
            problems.append(f"{name}: {shapes}")
    problems += [f"{name}: extra" for name in given if name not in expected]
    if problems:
        listed = "\n".join(f"  {p}" for p in problems[:12])
        more = f"\n  and {len(problems) - 12} more" if len(problems) > 12 else ""
        raise CheckpointError(f"{folder}: the weights do not fit the config:\n{listed}{more}")
    held = precision.holding(model, dtype, computed or dtype)
    if description.tie_embeddings:
        del given["lm_head.weight"]
    for name in given:
        given[name] = held(name, given[name])
    model.load_state_dict(given, assign=True, strict=False)
    if description.tie_embeddings:
        model.lm_head.weight = model.embedding.weight
    return model.eval().requires_grad_(requires_grad=False)


def _from_upstream(
    found: Iterable[tuple[str, Tensor]],
    family: ModuleType,
    description: Description,
    problems: list[str],
) -> dict[str, Tensor]:
    """Read a published layout's tensors under our names; those that nobody knows are problems."""
    given: dict[str, Tensor] = {}
    for name, tensor in found:
        ours = rename(name, family.KEYS)
        if ours is not None:
            given[ours] = tensor
        elif not fits(name, family.IGNORED):
            problems.append(f"{name}: a tensor that {description.family} does not have")
    if hasattr(family, "from_upstream"):
        given = family.from_upstream(given, description)
    return given


def tensors(folder: Path) -> Iterator[tuple[str, Tensor]]:
    """Go through all tensors of a folder: safetensors or torch files, whole or in shards.

    Raises:
        CheckpointError: no weight file, or one that cannot be read.
    """
    for path in weight_files(folder):
        try:
            if path.suffix == ".safetensors":
                content = _one_by_one(path)
            else:
                # A zip's tensors stay in the file until they are read.
                mapped = zipfile.is_zipfile(path)
                found = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
                content = iter(found.items())
            yield from content
        except (SafetensorError, RuntimeError, ValueError, EOFError, OSError) as error:
            raise CheckpointError(f"{path}: cannot be read as weights: {error}.") from error


def _one_by_one(path: Path) -> Iterator[tuple[str, Tensor]]:
    """Go through a safetensors file, of which what was read stays in memory while it is open."""
    with safe_open(path, framework="pt") as file:
        names = list(file.keys())
    for name in names:
        with safe_open(path, framework="pt") as file:
            yield name, file.get_tensor(name)


def weight_files(folder: Path) -> list[Path]:
    """List the files that hold a folder's weights, safetensors preferred."""
    for name in sources.WEIGHTS:
        path = folder / name
        if not path.is_file():
            continue
        if not name.endswith(".index.json"):
            return [path]
        shards = sorted(set(json.loads(path.read_text("utf-8"))["weight_map"].values()))
        missing = [s for s in shards if not (folder / s).is_file()]
        if missing:
            raise CheckpointError(f"{path}: names {', '.join(missing)}; found no such file.")
        return [folder / s for s in shards]
    raise CheckpointError(
        f"{folder}: found no weights; expected one of {', '.join(sources.WEIGHTS)}."
    )
