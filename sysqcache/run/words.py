# SPDX-License-Identifier: GPL-2.0-or-later
"""What `sysqcache run` was asked for, read from its words without the command line's library.

That library takes longer to import than a resume. What is not plain here (help, a wrong or an
abbreviated option) is left to it: :func:`parse` gives None then.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Sequence
from typing import Any, Final

END_OF_OPTIONS: Final = "--"


@dataclasses.dataclass(frozen=True, slots=True)
class Asked:
    """One `sysqcache run`.

    :param source: a vm.yaml, or the name of an image.
    :param command: words, or one line for a shell; empty: a shell.
    :param env: ``NAME=VALUE``, or ``NAME`` for the value that it has here.
    :param workdir: in the guest, "" for the user's home; ``user`` "" for root.
    :param timeout: seconds, 0.0 for none.
    :param copies: so many machines, each with the command; 0: one, whose output is as it is.
    :param template: the policy, one of :data:`POLICIES`.
    :param sets: fields of vm.yaml that are overridden, ``KEY=VALUE``.
    """

    source: str
    command: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    workdir: str = ""
    user: str = ""
    name: str = ""
    timeout: float = 0.0
    copies: int = 0
    template: str = "auto"
    sets: tuple[str, ...] = ()
    vcpus: int = 0
    memory: str = ""
    tty: bool = False
    detach: bool = False

    @property
    def overrides(self) -> list[str]:
        """All fields of vm.yaml that are overridden."""
        more = [f"vcpus={self.vcpus}"] if self.vcpus else []
        return [*self.sets, *more, *([f"memory={self.memory}"] if self.memory else [])]


POLICIES: Final = ("auto", "always", "never")

WITH_VALUE: Final[dict[str, str]] = {
    "--env": "env",
    "-e": "env",
    "--workdir": "workdir",
    "-w": "workdir",
    "--user": "user",
    "-u": "user",
    "--name": "name",
    "--timeout": "timeout",
    "--copies": "copies",
    "--template": "template",
    "--set": "sets",
    "--vcpus": "vcpus",
    "--memory": "memory",
}
"""Options that take a word, and what they set."""

FLAGS: Final[dict[str, str]] = {"--tty": "tty", "-t": "tty", "--detach": "detach", "-d": "detach"}

_LISTS: Final = ("env", "sets")
_NUMBERS: Final[dict[str, type]] = {"timeout": float, "copies": int, "vcpus": int}


def parse(words: Sequence[str]) -> Asked | None:
    """What is asked for by the words behind `run`; None when that is not plain."""
    if END_OF_OPTIONS not in words:
        return None
    end = words.index(END_OF_OPTIONS)
    found: dict[str, Any] = {"command": tuple(words[end + 1 :])}
    left = list(reversed(words[:end]))
    while left:
        word = left.pop()
        name, equals, value = word.partition("=") if word.startswith("--") else (word, "", "")
        if word in FLAGS:
            found[FLAGS[word]] = True
        elif name in WITH_VALUE and (equals or left):
            _put(found, WITH_VALUE[name], value if equals else left.pop())
        elif word.startswith("-") or "source" in found:
            return None
        else:
            found["source"] = word
    return _typed(found)


def _put(found: dict[str, Any], field: str, value: str) -> None:
    found[field] = (*found.get(field, ()), value) if field in _LISTS else value


def _typed(found: dict[str, Any]) -> Asked | None:
    with contextlib.suppress(ValueError, TypeError):
        for field, number in _NUMBERS.items():
            if field in found:
                found[field] = number(found[field])
        asked = Asked(**found)
        return asked if is_plain(asked) else None
    return None


def is_plain(asked: Asked) -> bool:
    """Whether all values are among those that are possible."""
    return (
        asked.template in POLICIES
        and asked.timeout >= 0
        and asked.copies >= 0
        and not (asked.copies and (asked.tty or asked.detach))
    )
