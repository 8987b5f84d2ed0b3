/*
 * Persistent translation cache: which of many packs may have a block
 *
 * Copyright (c) 2026 The sysqcache authors
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Each pack has a seed of its own, so that a request would have to compute a
 * hash and wait for memory for each of them.  An index tells nearly all of a
 * key without the seed; what it does not tell costs a look in vain.
 */

#include "qemu/osdep.h"
#include "tb-cache-find.h"

/* The longest list of entries; a bucket has one of them or two. */
#define MAX_ENTRIES (UINT32_MAX / 4)

static uint64_t entry_hash(const TbCacheDirectory *d, TbCacheIndexEntry e)
{
    bool is_long = e.page_offset & TB_CACHE_INDEX_LONG;
    uint16_t page_offset = e.page_offset & ~(TB_CACHE_INDEX_LONG |
                                             TB_CACHE_INDEX_TOLD);

    return tb_cache_directory_hash(d, page_offset, is_long,
                                   is_long ? e.prefix : e.prefix & 0xff);
}

/* Whether there is a block, whose key is told. */
static bool is_listed(TbCacheIndexEntry e)
{
    return e.position && e.page_offset & TB_CACHE_INDEX_TOLD;
}

/* Count the entries of each bucket, in the place of the one behind it. */
static void count(TbCacheDirectory *d, const TbCachePackFile *pack)
{
    for (uint64_t i = 0; i < pack->index_entries; i++) {
        TbCacheIndexEntry e = pack->index[i];

        if (is_listed(e)) {
            d->start[tb_cache_directory_bucket(d, entry_hash(d, e)) + 1]++;
        }
    }
}

/*
 * Put them into their buckets, as far as @fill has come.  A file may change
 * after it has been counted: what finds no room is left out.
 */
static void put(TbCacheDirectory *d, uint32_t *fill,
                const TbCachePackFile *pack, uint32_t number)
{
    for (uint64_t i = 0; i < pack->index_entries; i++) {
        TbCacheIndexEntry e = pack->index[i];
        uint32_t entry, *at;
        uint64_t h;
        size_t b;

        if (!is_listed(e)) {
            continue;
        }
        h = entry_hash(d, e);
        b = tb_cache_directory_bucket(d, h);
        entry = tb_cache_directory_entry(h, number);
        at = &d->entries[fill[b]];
        if (fill[b] < d->start[b + 1] &&
            (fill[b] == d->start[b] || at[-1] != entry)) {
            *at = entry;
            fill[b]++;
        }
    }
}

static uint64_t count_blocks(TbCachePackFile **packs, unsigned n)
{
    uint64_t sum = 0;

    for (unsigned i = 0; i < n; i++) {
        sum += packs[i]->index_entries;
    }
    return sum;
}

static TbCacheDirectory *allocate(uint64_t entries)
{
    TbCacheDirectory *d;
    unsigned bits = 8;
    size_t buckets;

    while (entries >> (bits + 1)) {
        bits++;
    }
    buckets = (size_t)1 << bits;

    d = g_try_malloc0(sizeof(*d) + (buckets + 1 + entries) * sizeof(uint32_t));
    if (d) {
        d->bits = bits;
        d->start = (uint32_t *)(d + 1);
        d->entries = d->start + buckets + 1;
    }
    return d;
}

TbCacheDirectory *tb_cache_directory_new(TbCachePackFile **packs, unsigned n,
                                         uint64_t seed)
{
    uint64_t entries = count_blocks(packs, n);
    g_autofree uint32_t *fill = NULL;
    TbCacheDirectory *d = NULL;
    size_t buckets;

    if (entries <= MAX_ENTRIES) {
        d = allocate(entries);
    }
    if (!d) {
        return NULL;
    }
    buckets = (size_t)1 << d->bits;
    fill = g_try_malloc(buckets * sizeof(*fill));
    if (!fill) {
        g_free(d);
        return NULL;
    }
    d->seed = seed;
    d->n_packs = n;
    for (unsigned i = 0; i < n; i++) {
        count(d, packs[i]);
    }
    for (size_t i = 0; i < buckets; i++) {
        d->start[i + 1] += d->start[i];
    }
    memcpy(fill, d->start, buckets * sizeof(*fill));
    for (unsigned i = 0; i < n; i++) {
        put(d, fill, packs[i], i);
    }
    return d;
}
