/*
 * qemu/bitmap.h, as far as the fuzzed files need it
 *
 * Copyright (c) 2026 The sysqcache authors
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef FUZZ_QEMU_BITMAP_H
#define FUZZ_QEMU_BITMAP_H

#include "qemu/atomic.h"

#define BITS_PER_LONG 64

static inline unsigned long *bitmap_new(long bits)
{
    return g_new0(unsigned long, DIV_ROUND_UP(bits, BITS_PER_LONG));
}

#define BIT_WORD(bit) ((bit) / BITS_PER_LONG)
#define BIT_MASK(bit) (1ul << ((bit) % BITS_PER_LONG))

static inline void set_bit_atomic(long bit, unsigned long *map)
{
    __atomic_fetch_or(&map[BIT_WORD(bit)], BIT_MASK(bit), __ATOMIC_SEQ_CST);
}

#endif
