# SPDX-License-Identifier: GPL-2.0-or-later
"""The QMP connection: typed commands, events, jobs."""
