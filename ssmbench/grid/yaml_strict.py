"""What YAML allows and a grid cannot mean, refused at its place in the text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ruamel.yaml.constructor import ConstructorError, RoundTripConstructor
from ruamel.yaml.events import AliasEvent, CollectionEndEvent, CollectionStartEvent

if TYPE_CHECKING:
    from ruamel.yaml import YAML
    from ruamel.yaml.nodes import Node

_MAX_DEPTH = 50
_KINDS = {"bool": "true or false", "float": "a number", "int": "a number", "timestamp": "a date"}


class Constructor(RoundTripConstructor):
    """Makes values of nodes; where ruamel only breaks, it says which value is at fault."""

    def construct_object(self, node: Node, deep: bool = False) -> Any:  # noqa: FBT001, FBT002
        """Make one value.

        Raises:
            ConstructorError: the text is none of its kind, such as the date 2026-13-45.
        """
        try:
            value = super().construct_object(node, deep)
            if isinstance(value, int):
                float(value)  # Python cannot even write what is too large for this.
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
            kind = str(node.tag).rpartition(":")[2]
            words = (
                f"this cannot be read as {_KINDS.get(kind, f'!!{kind}')}; if it is text, quote it"
            )
            raise ConstructorError(problem=words, problem_mark=node.start_mark) from None
        return value


def check_events(yaml: YAML, text: str) -> None:
    """Read a text as far as its structure, and refuse what nobody can have meant.

    Raises:
        ConstructorError: it is nested deeper than a grid can mean, and than Python can follow;
            or an anchor is given twice, of which ruamel only warns.
    """
    depth, anchors = 0, dict[str, int]()
    for event in yaml.parse(text):
        depth += isinstance(event, CollectionStartEvent) - isinstance(event, CollectionEndEvent)
        if depth > _MAX_DEPTH:
            problem = f"more than {_MAX_DEPTH} lists and mappings inside each other"
            raise ConstructorError(problem=problem, problem_mark=event.start_mark)
        name = None if isinstance(event, AliasEvent) else getattr(event, "anchor", None)
        if name in anchors:
            problem = f"the anchor &{name} is given a second time (first on line {anchors[name]})"
            raise ConstructorError(problem=problem, problem_mark=event.start_mark)
        if name is not None:
            anchors[name] = event.start_mark.line + 1
