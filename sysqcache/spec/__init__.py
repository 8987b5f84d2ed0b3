# SPDX-License-Identifier: GPL-2.0-or-later
"""What a machine is: vm.yaml read, checked, made concrete; the images and engines it names."""
