# SPDX-License-Identifier: GPL-2.0-or-later
"""The helper: a machine of our own that reads file systems which we do not know."""
