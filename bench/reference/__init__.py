# SPDX-License-Identifier: GPL-2.0-or-later
"""What the engine does, once more, for tests and fuzzing: it writes journals, looks into packs."""
