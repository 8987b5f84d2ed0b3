# SPDX-License-Identifier: GPL-2.0-or-later
"""Reading and validating vm.yaml: every problem at once, each with its line.

This module only reads and validates; :mod:`sysqcache.spec.resolve` makes values concrete.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from sysqcache.base.errors import ConfigError
from sysqcache.spec import yamltext
from sysqcache.spec.schema import NAME_PATTERN, UUID_PATTERN, WORD_PATTERN, Section, VmFields
from sysqcache.spec.yamltext import Loc

_ROOT_LINE = 1
_FOUND = 60
_INDEX: Final = re.compile("[0-9]{1,6}")
_HINT = "docs/vm-yaml.md describes every field, configs/default.yaml shows the defaults"
_PATTERNS = {
    NAME_PATTERN: "letters, digits, '.', '_' and '-', at most 63",
    WORD_PATTERN: "a word of letters, digits, '.', '_', '+' and '-'",
    UUID_PATTERN: "a UUID",
}
_Model = TypeVar("_Model", bound=BaseModel)


@dataclasses.dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong: ``where`` is ``file:line`` or the option that said it."""

    where: str
    path: str
    text: str

    def __str__(self) -> str:
        return (
            f"{self.where}: {self.path}: {self.text}" if self.path else f"{self.where}: {self.text}"
        )


@dataclasses.dataclass(frozen=True, slots=True)
class Document:
    """A vm.yaml as plain data, not validated yet.

    :param places: where fields stand: ``file:line``, or the option that set them.
    """

    file: Path
    data: dict[str, Any]
    places: dict[Loc, str]

    def place(self, loc: Loc) -> str:
        """The place of ``loc``, or of the nearest field around it."""
        for end in range(len(loc), 0, -1):
            if where := self.places.get(loc[:end]):
                return where
        return f"{self.file}:{_ROOT_LINE}"


@dataclasses.dataclass(frozen=True, slots=True)
class CheckedFields:
    """The valid part of a document and what is wrong with the rest.

    Fields that have problems hold their defaults; ``bad`` names their top-level keys.
    """

    document: Document
    fields: VmFields
    problems: tuple[Problem, ...]
    bad: frozenset[str]

    def problem(self, loc: Loc, text: str) -> Problem:
        """A problem at ``loc``, with its place in the file."""
        return Problem(self.document.place(loc), dotted(loc), text)


def dotted(loc: Loc) -> str:
    """``("disks", 0, "mode")`` as ``disks.0.mode``."""
    return ".".join(str(part)[:60] for part in loc)


def config_error(file: Path, problems: Iterable[Problem], hint: str = _HINT) -> ConfigError:
    """One error that lists all problems."""
    listed = list(problems)
    count = "1 problem" if len(listed) == 1 else f"{len(listed)} problems"
    return ConfigError(
        f"{file} has {count}",
        hint=hint,
        detail="\n".join(str(problem) for problem in listed),
    )


def read(file: Path, overrides: Sequence[str] = ()) -> Document:
    """Read ``file`` and apply ``key=value`` overrides (dotted keys, YAML values).

    Raises :class:`ConfigError` for an unreadable file and for broken YAML.
    """
    text = _text(file)
    try:
        data, lines = yamltext.load(text)
    except yamltext.BadYaml as error:
        raise config_error(file, [Problem(f"{file}:{error.line}", "", error.text)]) from None
    places = {loc: f"{file}:{line}" for loc, line in lines.items()}
    if data is None:
        data = {}
    if not isinstance(data, dict):
        raise config_error(file, [Problem(f"{file}:1", "", "expected keys and values")])
    problems = [p for item in overrides if (p := _override(data, item, places))]
    if problems:
        raise config_error(file, problems)
    return Document(file, data, places)


def _text(file: Path) -> str:
    """The text of a file, or of what a pipe holds; not more than could be a vm.yaml."""
    try:
        with file.open("rb") as stream:
            return stream.read(4 * yamltext.MAX_CHARACTERS).decode("utf-8")
    except UnicodeDecodeError:
        reason = "not UTF-8 text"
    except OSError as error:
        reason = error.strerror or str(error)
    raise ConfigError(f"can't read {file}: {reason}") from None


def _override(data: dict[str, Any], item: str, places: dict[Loc, str]) -> Problem | None:
    """Apply one ``key=value``; the problem if that is not possible."""
    option = f"--set {item}"
    key, equals, text = item.partition("=")
    if not equals or not key:
        return Problem(option, "", "expected key=value, such as memory=2GiB")
    loc: Loc = tuple(int(p) if _INDEX.fullmatch(p) else p for p in key.split("."))
    if len(loc) > yamltext.MAX_DEPTH:
        return Problem(option, "", "no field lies that deep")
    target: Any = data
    for part in loc[:-1]:
        if isinstance(target, dict):
            target = target.setdefault(str(part), {})
        elif isinstance(target, list) and isinstance(part, int) and part < len(target):
            target = target[part]
        else:
            return Problem(option, key, f"there is nothing to set at {part!r}")
    last, value = loc[-1], _yaml_value(text)
    if isinstance(target, dict):
        target[str(last)] = value
    elif not isinstance(target, list):
        return Problem(option, key, "the value above it holds no fields")
    elif isinstance(last, int) and last < len(target):
        target[last] = value
    else:
        return Problem(option, key, f"the list has {len(target)} items")
    places[loc] = option
    return None


def _yaml_value(text: str) -> Any:
    try:
        return yamltext.load(text)[0]
    except yamltext.BadYaml:
        return text


def check(document: Document) -> CheckedFields:
    """Validate every field; never raises for a wrong file, see ``problems``."""
    data = dict(document.data)
    try:
        return CheckedFields(document, VmFields.model_validate(data), (), frozenset())
    except ValidationError as error:
        details = error.errors(include_url=False)
    problems = tuple(_problem(document, item, VmFields) for item in details)
    bad = frozenset(str(item["loc"][0]) for item in details if item["loc"])
    rest = {key: value for key, value in data.items() if str(key) not in bad}
    return CheckedFields(document, VmFields.model_validate(rest), problems, bad)


def validated(document: Document, model: type[_Model]) -> tuple[_Model | None, list[Problem]]:
    """A document as another model than a machine's, or what is wrong with it."""
    try:
        return model.model_validate(document.data), []
    except ValidationError as error:
        return None, [_problem(document, one, model) for one in error.errors(include_url=False)]


def _problem(document: Document, error: ErrorDetails, model: type[BaseModel]) -> Problem:
    loc: Loc = tuple(error["loc"])
    return Problem(document.place(loc), dotted(loc), _explain(error, loc, model))


def _explain(error: ErrorDetails, loc: Loc, model: type[BaseModel]) -> str:
    """What was expected and what was found, in words."""
    if error["type"] == "extra_forbidden":
        return _unknown_key(loc, _known_keys(loc[:-1], model))
    if error["type"] == "missing":
        return "this field is required"
    context = error.get("ctx", {})
    if error["type"] in ("enum", "literal_error"):
        expected = f"expected {context['expected']}"
    elif error["type"] == "string_pattern_mismatch":
        expected = f"expected {_PATTERNS.get(context['pattern'], context['pattern'])}"
    elif error["type"] in ("model_type", "dict_type"):
        expected = "expected a section with keys"
    elif error["type"] == "tuple_type":
        expected = "expected a list"
    else:
        message = error["msg"]
        expected = message[0].lower() + message[1:]
        expected = expected.replace("input should be", "expected")
    return f"{expected}; found {_found(error['input'])}"


def _found(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _FOUND else text[: _FOUND - 3] + "..."


def _unknown_key(loc: Loc, known: Sequence[str]) -> str:
    """The complaint about an unknown key, with the nearest known one."""
    key = str(loc[-1])
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    if near:
        return f"unknown key; did you mean {near[0]!r}?"
    return f"unknown key; known are {', '.join(known)}"


def _known_keys(loc: Loc, section: type[BaseModel]) -> list[str]:
    """The field names of the section at ``loc``."""
    for part in loc:
        if isinstance(part, str) and part in section.model_fields:
            section = _section_of(section.model_fields[part].annotation) or section
    return list(section.model_fields)


def _section_of(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return annotation
    for inner in getattr(annotation, "__args__", ()):
        if (found := _section_of(inner)) is not None:
            return found
    return None
