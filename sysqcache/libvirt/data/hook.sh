#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
# Printed by "sysqcache libvirt hook", for /etc/libvirt/hooks/qemu.d/sysqcache.
# libvirt waits for this script and it must not call libvirt back: it starts the program
# that follows the domain, and is gone. The program has the domain's XML from here.
case "$2" in
started|reconnect) ;;
*) exit 0 ;;
esac
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export PATH
xml=$(cat)
case "$xml" in
*@NAMESPACE@*) ;;
*) exit 0 ;;
esac
printf '%s\n' "$xml" | env @ENVIRONMENT@ setsid @COMMAND@ libvirt follow --stdin \
    >/dev/null 2>&1 &
