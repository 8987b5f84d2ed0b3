# SPDX-License-Identifier: GPL-2.0-or-later
"""YAML as plain data with the line of each field.

Built from the nodes of the text, not by a loader of objects: tags make nothing, aliases are
unfolded within bounds, and a merge (``<<``) has lines as well.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from ruamel.yaml import YAML
    from ruamel.yaml.nodes import MappingNode, Node, ScalarNode

Loc = tuple[int | str, ...]

MAX_CHARACTERS: Final = 32 << 10
MAX_VALUES: Final = 2000
MAX_DEPTH: Final = 32

_TAG: Final = "tag:yaml.org,2002:"
_CONVERTED: Final = frozenset(_TAG + kind for kind in ("null", "bool", "int", "float"))
_TEXT: Final = frozenset(_TAG + kind for kind in ("str", "timestamp", "value", "merge"))
_MERGE: Final = _TAG + "merge"
_INTEGERS: Final = 1 << 63
_TOO_MANY: Final = f"more than {MAX_VALUES:,} values, aliases counted"


class BadYaml(Exception):
    """The text can't be read: ``line``, counted from 1, and ``text``, what is wrong there."""

    def __init__(self, line: int, text: str) -> None:
        super().__init__(text)
        self.line, self.text = line, text


def load(text: str) -> tuple[Any, dict[Loc, int]]:
    """Dictionaries, lists and scalars of a document, and the line of each field.

    Dates and numbers beyond 64 bits stay text. :raises BadYaml: broken, or beyond the bounds.
    """
    from ruamel.yaml import YAML
    from ruamel.yaml.error import MarkedYAMLError, YAMLError

    if len(text) > MAX_CHARACTERS:
        raise BadYaml(1, f"longer than {MAX_CHARACTERS >> 10} Ki characters")
    yaml = YAML(typ="safe", pure=True)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of an anchor that is set twice, which is no fault
            _bounded(yaml, text)
            node = yaml.compose(io.StringIO(text))
        builder = _Builder(yaml)
        return None if node is None else builder.value(node, (), 0), builder.lines
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        problem = (error.problem or "broken YAML").split("\n")[0]
        raise BadYaml(mark.line + 1 if mark else 1, problem) from None
    # the parser's own slips over text that is no YAML, such as a version of four parts
    except (YAMLError, ValueError, LookupError, TypeError, AttributeError, AssertionError) as error:
        first = str(error).strip().partition("\n")[0]
        raise BadYaml(1, f"broken YAML: {first}") from None


def _bounded(yaml: YAML, text: str) -> None:
    """Look over the text first: the time that nodes take grows with the square of the depth."""
    depth = 0
    for number, event in enumerate(yaml.parse(io.StringIO(text))):
        kind = type(event).__name__
        depth += kind.endswith("StartEvent") - kind.endswith("EndEvent")
        line = int(event.start_mark.line) + 1
        if depth > MAX_DEPTH:
            raise BadYaml(line, f"nested deeper than {MAX_DEPTH} levels")
        if number > 2 * MAX_VALUES:
            raise BadYaml(line, _TOO_MANY)


def _line(node: Node) -> int:
    return int(node.start_mark.line) + 1


class _Builder:
    """Values of nodes; ``lines`` has those of the fields."""

    def __init__(self, yaml: YAML) -> None:
        self._yaml = yaml
        self._left = MAX_VALUES
        self.lines: dict[Loc, int] = {}

    def value(self, node: Node, loc: Loc, depth: int) -> Any:
        """The plain value of a node that stands at ``loc``."""
        from ruamel.yaml.nodes import MappingNode, ScalarNode, SequenceNode

        self._left -= 1
        if self._left < 0:
            raise BadYaml(_line(node), _TOO_MANY)
        if depth > MAX_DEPTH:
            raise BadYaml(_line(node), f"nested deeper than {MAX_DEPTH} levels")
        self.lines.setdefault(loc, _line(node))
        if isinstance(node, MappingNode):
            return self._mapping(node, loc, depth + 1)
        if isinstance(node, SequenceNode):
            return [self.value(one, (*loc, n), depth + 1) for n, one in enumerate(node.value)]
        assert isinstance(node, ScalarNode)
        return self._scalar(node)

    def _mapping(self, node: MappingNode, loc: Loc, depth: int) -> dict[str, Any]:
        merged: dict[str, Any] = {}
        own = [pair for pair in node.value if pair[0].tag != _MERGE]
        # first, so that the lines of the fields' own keys stay
        for _, value in (pair for pair in node.value if pair[0].tag == _MERGE):
            for one in _merges(value):
                merged |= self.value(one, loc, depth)
        found: dict[str, Any] = {}
        for key, value in own:
            name = _key(key)
            if name in found:
                raise BadYaml(_line(key), f"the key {name[:60]!r} is there twice")
            self.lines[*loc, name] = _line(key)
            found[name] = self.value(value, (*loc, name), depth)
        return merged | found

    def _scalar(self, node: ScalarNode) -> Any:
        text = _joined(node)
        if node.tag in _TEXT:
            return text
        if node.tag not in _CONVERTED:
            raise BadYaml(_line(node), f"the tag {str(node.tag)[:60]} means nothing here")
        try:
            value = self._yaml.constructor.construct_object(node)
        except (ValueError, OverflowError, LookupError):
            return text
        big = isinstance(value, int) and not -_INTEGERS <= value < _INTEGERS
        return text if big else value


def _key(node: Node) -> str:
    from ruamel.yaml.nodes import ScalarNode

    if not isinstance(node, ScalarNode):
        raise BadYaml(_line(node), "a key has to be a word")
    return _joined(node)


def _joined(node: ScalarNode) -> str:
    """The text of a scalar; JSON writes characters beyond 16 bits as two escapes."""
    try:
        return str(node.value).encode("utf-16", "surrogatepass").decode("utf-16")
    except UnicodeDecodeError:
        raise BadYaml(_line(node), "half a character, as no text has it") from None


def _merges(node: Node) -> Iterator[MappingNode]:
    """The mappings of a merge, the strongest last."""
    from ruamel.yaml.nodes import MappingNode, SequenceNode

    nodes = node.value if isinstance(node, SequenceNode) else [node]
    for one in reversed(nodes):
        if not isinstance(one, MappingNode):
            raise BadYaml(_line(one), "<< takes a section, or a list of them")
        yield one
