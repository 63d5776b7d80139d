"""Reading what stands behind a repeatable flag of the command line."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from ssmbench.errors import CommandError

if TYPE_CHECKING:
    from collections.abc import Sequence


def pairs(flag: str, given: Sequence[str]) -> dict[str, str]:
    """Read NAME=PATH values.

    Raises:
        CommandError: one has another form.
    """
    found = {}
    for value in given:
        name, sign, path = value.partition("=")
        if not (name and sign and path):
            raise CommandError(f"{flag} {value}: expected NAME=PATH.")
        found[name] = path
    return found


def values(flag: str, given: Sequence[str]) -> dict[str, Any]:
    """Read NAME=VALUE and STEP.NAME=VALUE, the latter as mappings by step.

    A value that is JSON is read as JSON, anything else as text.

    Raises:
        CommandError: one has another form, or a name comes twice.
    """
    found: dict[str, Any] = {}
    for value in given:
        name, sign, text = value.partition("=")
        *step, name = name.split(".", 1)
        if not (name and sign):
            raise CommandError(f"{flag} {value}: expected NAME=VALUE.")
        target = found.setdefault(step[0], {}) if step else found
        if not isinstance(target, dict) or name in target:
            raise CommandError(f"{flag} {value}: found that parameter twice; expected it once.")
        try:
            target[name] = json.loads(text)
        except ValueError:
            target[name] = text
    return found
