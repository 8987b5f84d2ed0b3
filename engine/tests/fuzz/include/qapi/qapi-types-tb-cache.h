/*
 * qapi/qapi-types-tb-cache.h, as far as the fuzzed files need it
 *
 * Copyright (c) 2026 The sysqcache authors
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef FUZZ_QAPI_QAPI_TYPES_TB_CACHE_H
#define FUZZ_QAPI_QAPI_TYPES_TB_CACHE_H

/* Counters and nothing else, as in qapi/tb-cache.json. */
typedef struct TbCacheMisses {
    uint64_t absent;
    uint64_t bytes;
    uint64_t no_pack;
    uint64_t rejected;
    uint64_t page2;
    uint64_t crowded;
} TbCacheMisses;

typedef struct TbCacheRejects {
    uint64_t checksum;
    uint64_t bounds;
    uint64_t magic;
    uint64_t version;
    uint64_t fingerprint;
    uint64_t truncated;
    uint64_t header_checksum;
    uint64_t owner;
    uint64_t writable;
    uint64_t unreadable;
    uint64_t page_bits;
    uint64_t limit;
} TbCacheRejects;

typedef struct TbCacheUnrecorded {
    uint64_t unused;
} TbCacheUnrecorded;

typedef struct TbCacheWrites {
    uint64_t unused;
} TbCacheWrites;

#endif
