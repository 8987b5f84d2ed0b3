/*
 * qemu/rcu.h, as far as the fuzzed files need it
 *
 * Copyright (c) 2026 The sysqcache authors
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef FUZZ_QEMU_RCU_H
#define FUZZ_QEMU_RCU_H

struct rcu_head {
    void *unused;
};

#endif
