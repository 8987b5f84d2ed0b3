# SPDX-License-Identifier: GPL-2.0-or-later
"""What code a machine's image holds, read from its files without booting it."""
