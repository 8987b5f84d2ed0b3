# SPDX-License-Identifier: GPL-2.0-or-later
"""A start and the machine that it makes: QEMU, the guest in it, what is told and reported."""
