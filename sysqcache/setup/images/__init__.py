# SPDX-License-Identifier: GPL-2.0-or-later
"""Guest images: building them from Debian's archive, and finding them again."""
