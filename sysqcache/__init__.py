# SPDX-License-Identifier: GPL-2.0-or-later
"""A persistent translation cache for machines emulated by QEMU."""

__version__ = "0.1.0"
