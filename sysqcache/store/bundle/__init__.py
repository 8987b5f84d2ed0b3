# SPDX-License-Identifier: GPL-2.0-or-later
"""Bundles: blocks of a store in one file, and what takes them into another store."""
