"""What a grid can name."""

from __future__ import annotations

from ssmbench import console
from ssmbench.errors import DONE


def models() -> int:
    """List the models that a grid can name."""
    from ssmbench.grid.catalogue import catalogue

    body = [[name, str(entry.source)] for name, entry in catalogue().items()]
    console.rows(["model", "source"], body)
    return DONE


def methods() -> int:
    """List the compression methods."""
    _list_plugins("method")
    return DONE


def suites() -> int:
    """List what can be measured."""
    _list_plugins("suite")
    return DONE


def _list_plugins(kind: str) -> None:
    from ssmbench import plugins

    body = []
    for name in plugins.names(kind):
        text = plugins.load(kind, name).__doc__ or ""
        body.append([name, text.strip().splitlines()[0]])
    console.rows([kind, ""], body)
