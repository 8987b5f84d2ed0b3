#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
# Runs inside the new system's root after its packages are installed.
set -eu
passwd -q -d root
systemctl --quiet enable systemd-networkd.service sysqcache-ready.service
systemctl --quiet set-default multi-user.target
# a getty there would take the input meant for the serial shell
systemctl --quiet mask serial-getty@ttyS0.service serial-getty@ttyAMA0.service
# nothing here needs the network before nginx listens, and a machine may have no network card
systemctl --quiet mask systemd-networkd-wait-online.service
# work that starts by itself at some time after boot would make runs differ
systemctl --quiet mask apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer \
    e2scrub_all.timer e2scrub_reap.service fstrim.timer logrotate.timer phpsessionclean.timer
rm -f /etc/apt/apt.conf.d/99mmdebstrap
