# SPDX-License-Identifier: GPL-2.0-or-later
"""From a machine specification to a running QEMU."""
