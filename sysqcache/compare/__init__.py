# SPDX-License-Identifier: GPL-2.0-or-later
"""Every way of starting one machine, measured side by side."""
