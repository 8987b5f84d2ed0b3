# SPDX-License-Identifier: GPL-2.0-or-later
"""Talking to the guest: commands, readiness, the console."""
