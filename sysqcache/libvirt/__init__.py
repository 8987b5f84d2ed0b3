# SPDX-License-Identifier: GPL-2.0-or-later
"""Warm caches for machines that libvirt manages: domain XML, permissions, following."""
