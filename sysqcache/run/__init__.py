# SPDX-License-Identifier: GPL-2.0-or-later
"""Commands in machines that are there for one command: templates, streams, the way out."""
