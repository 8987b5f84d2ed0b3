# SPDX-License-Identifier: GPL-2.0-or-later
"""Introspection of a running guest from outside, ending in a plain table of page owners.

:mod:`.session` attaches drgn to QEMU, :mod:`.mapper` walks the guest's kernel, and
:mod:`.table` is what remains: arrays without a trace of drgn.
"""
