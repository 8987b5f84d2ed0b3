# SPDX-License-Identifier: GPL-2.0-or-later
"""What every room uses: names, errors, counters, and the ways to files and sockets."""
