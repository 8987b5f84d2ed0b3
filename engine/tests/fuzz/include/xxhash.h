/*
 * xxhash.h, as far as the fuzzed files need it
 *
 * Copyright (c) 2026 The sysqcache authors
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The library's functions instead of inline ones: they are quicker than with
 * sanitizers, and what they cover says nothing.  What they are to read is
 * checked before.
 */

#ifndef FUZZ_XXHASH_H
#define FUZZ_XXHASH_H

#undef XXH_INLINE_ALL
#include_next <xxhash.h>
#include <sanitizer/asan_interface.h>
#include "qemu/atomic.h"

static inline XXH64_hash_t checked_xxh3(const void *p, size_t size)
{
    char *bad = __asan_region_is_poisoned((void *)p, size);

    if (bad) {
        qatomic_read(bad);      /* reported there */
    }
    return (XXH3_64bits)(p, size);
}

#define XXH3_64bits(p, size) checked_xxh3(p, size)

#endif
