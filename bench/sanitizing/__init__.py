# SPDX-License-Identifier: GPL-2.0-or-later
"""Reads what sanitizers report of the engine; see docs/bench.md, "Sanitizers"."""
