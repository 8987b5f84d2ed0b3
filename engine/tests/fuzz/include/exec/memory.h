/*
 * exec/memory.h, as far as the fuzzed files need it
 *
 * Copyright (c) 2026 The sysqcache authors
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef FUZZ_EXEC_MEMORY_H
#define FUZZ_EXEC_MEMORY_H

typedef struct MemoryRegion {
    void *ram;
    uint64_t size;
} MemoryRegion;

static inline bool memory_region_is_ram(MemoryRegion *mr)
{
    return true;
}

static inline void *memory_region_get_ram_ptr(MemoryRegion *mr)
{
    return mr->ram;
}

static inline uint64_t memory_region_size(MemoryRegion *mr)
{
    return mr->size;
}

#endif
