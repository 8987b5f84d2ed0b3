# SPDX-License-Identifier: GPL-2.0-or-later
"""A value that only the guest's memory holds: whoever gives it back was not booted.

It is put into a file of a file system that the guest keeps in memory alone, before the
machine is saved. No disk, no vm.yaml and no command line has it.
"""

from __future__ import annotations

import secrets
from typing import Final

from sysqcache.base.errors import SavedStateError
from sysqcache.compare.ways import Way

_FILE: Final = "sysqcache-nonce"
_FOLDERS: Final = ("/dev/shm", "/run", "/tmp", "/")  # noqa: S108 (the guest's, not ours)
_IN_MEMORY: Final = "(tmpfs|ramfs|rootfs)"

# /proc/mounts has the type in its third column; the last line of a folder counts, as a later
# mount hides an earlier one
_STORE: Final = """\
for folder in {folders}; do
  kind=$(grep "^[^ ]* $folder " /proc/mounts | tail -n 1 | cut -d " " -f 3)
  echo "$kind" | grep -qE "^{kinds}$" || continue
  (umask 077; echo {nonce} > "$folder/{file}") && exit 0
done
echo "no file system in memory" >&2; exit 1
"""

READ: Final = "; ".join(
    [*(f"cat {folder.rstrip('/')}/{_FILE} 2> /dev/null" for folder in _FOLDERS), "true"]
)
"""A command for the guest that prints the value, if it is there."""


def fresh() -> str:
    """A value that nobody has seen."""
    return secrets.token_hex(16)


def store_command(nonce: str) -> str:
    """A command for the guest that puts the value into its memory, or fails."""
    return _STORE.format(folders=" ".join(_FOLDERS), kinds=_IN_MEMORY, nonce=nonce, file=_FILE)


def check(way: Way, found: str, nonce: str) -> None:
    """Compare what the guest gave back with what was put there.

    :param nonce: of the saved machine, "" for a boot, which must have none.
    Raises :class:`SavedStateError` when the guest is not what it should be.
    """
    if found.strip() == nonce:
        return
    if way.method is None:
        raise SavedStateError(f"{way}: the guest was booted, but knows a value of a saved one")
    what = "does not know" if not found.strip() else "has another value than"
    raise SavedStateError(
        f"{way}: the guest {what} what was put into its memory before it was saved",
        hint="it did not go on where it was saved; nothing of this comparison can be trusted",
    )
