# SPDX-License-Identifier: GPL-2.0-or-later
"""The block store: packs that machines map, and the metadata about them."""
