# SPDX-License-Identifier: GPL-2.0-or-later
"""What is made once: engines, images, and the packages of the host that both need."""
