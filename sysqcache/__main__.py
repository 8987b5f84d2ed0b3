# SPDX-License-Identifier: GPL-2.0-or-later
"""``python -m sysqcache`` is the command ``sysqcache``."""

from __future__ import annotations

from sysqcache.cli.entry import main

if __name__ == "__main__":
    main()
