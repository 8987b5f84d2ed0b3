# SPDX-License-Identifier: GPL-2.0-or-later
"""Saved machines: what lies on the disk while a suspended machine does not run."""
