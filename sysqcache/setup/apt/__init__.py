# SPDX-License-Identifier: GPL-2.0-or-later
"""Packages from the mirror that this machine is already configured to use."""
