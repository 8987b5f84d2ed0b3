/*
 * qemu/timer.h, as far as the fuzzed files need it
 *
 * Copyright (c) 2026 The sysqcache authors
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef FUZZ_QEMU_TIMER_H
#define FUZZ_QEMU_TIMER_H

static inline int64_t get_clock(void)
{
    return 0;
}

#endif
