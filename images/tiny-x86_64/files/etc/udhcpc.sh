#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
case "$1" in
deconfig)
    ip link set "$interface" up
    ;;
bound)
    ip addr add "$ip/$mask" dev "$interface"
    ip route add default via "$router"
    ;;
esac
