# SPDX-License-Identifier: GPL-2.0-or-later
"""Whose code each recorded block is: module and offset, each confirmed by its bytes.

:func:`.checkpoint.checkpoint` looks into the living guest, :func:`.attribute.attribute` does
the rest when it has ended. docs/attribution.md tells how, and what counts as a proof.
"""
