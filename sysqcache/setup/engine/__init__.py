# SPDX-License-Identifier: GPL-2.0-or-later
"""Obtaining, patching and building the engine: QEMU 10.0 with our patches."""
