#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
# After that of debian12-x86_64. Without these, Debian 13's systemd takes each start from a fresh
# overlay for the first one after an update of /usr, and runs ldconfig and the like.
set -eu
touch /etc/.updated /var/.updated
