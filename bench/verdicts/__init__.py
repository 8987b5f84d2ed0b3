# SPDX-License-Identifier: GPL-2.0-or-later
"""Third parties' test suites, cold, warm and verified: the verdicts have to be the same."""
