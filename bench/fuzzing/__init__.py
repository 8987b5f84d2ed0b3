# SPDX-License-Identifier: GPL-2.0-or-later
"""Feeds the readers of files with anything; see docs/bench.md, "Fuzzing"."""
