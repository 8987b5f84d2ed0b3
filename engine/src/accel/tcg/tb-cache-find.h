/*
 * Persistent translation cache: looking for a block in packs
 *
 * Copyright (c) 2026 The sysqcache authors
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Reads what other processes wrote, and nothing of TCG: it can be built,
 * and fed with anything, apart from QEMU.
 */

#ifndef ACCEL_TCG_TB_CACHE_FIND_H
#define ACCEL_TCG_TB_CACHE_FIND_H

#include "qemu/atomic.h"
#include "qemu/bitmap.h"
#include "qemu/rcu.h"
#include "qemu/units.h"
#include "tcg/guest-imm.h"
#include "qapi/qapi-types-tb-cache.h"
#include "tb-cache-format.h"

#define TB_CACHE_MAX_GUEST      4096
#define TB_CACHE_MAX_BLOCK      (96 * KiB)

/*
 * How many blocks of one pack are compared for one request, and how many
 * entries of its index are passed over.  A guest may fill a pack with blocks
 * that its neighbours' requests lead to; they are looked for while others
 * may wait for the page.
 */
#define TB_CACHE_MAX_CANDIDATES 320
#define TB_CACHE_MAX_WALK       4096

/*
 * A request looks in one pack after another if they are few.  Of more, a
 * directory tells which ones may have the block.
 */
#define TB_CACHE_FEW_PACKS      16

/* In so many packs the block behind the last one that was found is tried. */
#define TB_CACHE_RECENT         8

/* Pages of a pack are populated in windows of this size, on first use. */
#define TB_CACHE_WINDOW_BITS    20

/* An immutable file of blocks, mapped for as long as QEMU lives. */
typedef struct TbCachePackFile {
    char *path;
    const uint8_t *base;
    size_t size;
    const TbCacheIndexEntry *index;
    uint64_t seed;
    uint64_t slot_count;
    uint64_t index_entries;
    uint64_t blocks_end;
    uint64_t blocks;
    const char *status;
    uint64_t open_us;
    uint32_t number;            /* in TbCache.packs */
    uint32_t flags_clear;       /* flags that none of its blocks has */
    uint32_t flags_set;         /* flags that all of its blocks have */
    unsigned long *windows;     /* bitmap of populated windows */
    unsigned long *used;        /* bitmap by tb_cache_use_bit, or NULL */
} TbCachePackFile;

/* A block's key: what the caller of tb_gen_code() gives. */
typedef struct TbCacheKey {
    uint64_t cs_base;
    uint32_t flags;
    uint32_t cflags;
    uint16_t page_offset;
    bool any_context;           /* only what serves any number of vCPUs */
    bool one_page;              /* @host is all there is to compare with */
    unsigned page_bits;
    size_t avail;               /* bytes of guest code at @host */
    const uint8_t *host;        /* up to the end of the first page */
} TbCacheKey;

typedef struct TbCacheFind TbCacheFind;
typedef struct TbCacheDirectory TbCacheDirectory;

/**
 * TbCachePage2: have the guest code on the second page
 *
 * Called at most once for a request, and only for a block whose checksum is
 * right.  Returns it, or NULL if it is not RAM.  The first page may have
 * changed afterwards.
 */
typedef const uint8_t *TbCachePage2(TbCacheFind *f);

/* What a thread that looks for blocks has. */
struct TbCacheFind {
    /* Counters are written by their thread alone, and read at any time. */
    TbCacheMisses misses;
    TbCacheRejects rejected;

    /* The request in progress. */
    uint64_t *miss;             /* counter of the reason, if missed */
    TbCachePackFile *pack;      /* where a block was found */
    uint32_t position;
    const uint8_t *page2;
    bool page2_tried;
    TbCachePage2 *get_page2;
    /* Values that the guest has for the block's moving immediates. */
    uint32_t imms[TB_CACHE_MAX_IMMS];
    /* A window of a pack that is to be populated when no page is locked. */
    TbCachePackFile *cold;
    size_t cold_window;

    /* Packs with what was found last, and where the next block is, or 0. */
    struct {
        uint32_t pack;
        uint32_t behind;
    } recent[TB_CACHE_RECENT];

    /* Of the first packs, or NULL; the caller's, who may exchange it. */
    const TbCacheDirectory *directory;

    /* A copy of the block: what is checked is what is used. */
    TbCacheBlock *found;
};

/**
 * tb_cache_find_init: make @f ready
 * @f: all zero
 */
void tb_cache_find_init(TbCacheFind *f);

/**
 * tb_cache_find: look for a block
 * @f: the thread's
 * @packs: where to look
 * @n: how many they are
 * @k: the key; CF_PARALLEL in its cflags is for machines of several vCPUs
 *
 * May leave as @f->get_page2 does.
 *
 * Returns a copy that is valid until the next call, checked and equal to the
 * guest's code but for moving immediates, whose values are in @f->imms; or
 * NULL, with @f->miss set.
 */
const TbCacheBlock *tb_cache_find(TbCacheFind *f, TbCachePackFile **packs,
                                  unsigned n, const TbCacheKey *k);

/**
 * tb_cache_find_exactly: as tb_cache_find(), for just this value of
 * CF_PARALLEL, and without a guess
 */
const TbCacheBlock *tb_cache_find_exactly(TbCacheFind *f,
                                          TbCachePackFile **packs, unsigned n,
                                          const TbCacheKey *k);

/**
 * tb_cache_same_guest: compare guest code but for moving immediates
 * @b: the block's header
 * @data: its data, of which the sizes in @b are there
 * @host: the guest's code
 * @values: set to what the guest has for each immediate
 *
 * Only for blocks on one page.
 */
bool tb_cache_same_guest(const TbCacheBlock *b, const uint8_t *data,
                         const uint8_t *host, uint32_t *values);

/* Map the pages that a lookup found missing, with no page locked. */
void tb_cache_find_populate(TbCacheFind *f);

/**
 * tb_cache_count: add to a counter that other threads read at any time
 * @counter: of this thread, or under a lock
 * @n: how much
 */
static inline void tb_cache_count(uint64_t *counter, int64_t n)
{
    qatomic_set_u64(counter, *counter + n);
}

/* test_bit() for a bitmap in which other threads set bits. */
static inline bool tb_cache_test_bit(size_t bit, const unsigned long *map)
{
    return qatomic_read(&map[BIT_WORD(bit)]) & BIT_MASK(bit);
}

static inline unsigned tb_cache_nb_imms(const TbCacheBlock *b)
{
    return (b->block_flags & TB_CACHE_BLOCK_IMMS_MASK)
           >> TB_CACHE_BLOCK_IMMS_SHIFT;
}

static inline bool tb_cache_two_pages(const TbCacheBlock *b)
{
    return b->block_flags & TB_CACHE_BLOCK_TWO_PAGES;
}

static inline bool tb_cache_any_context(const TbCacheBlock *b)
{
    return b->block_flags & TB_CACHE_BLOCK_ANY_CONTEXT;
}

/* Bytes that follow the header, without the padding. */
static inline size_t tb_cache_body_size(const TbCacheBlock *b)
{
    return (size_t)b->guest_size + b->code_size + b->search_size
           + tb_cache_nb_imms(b) * sizeof(TbCacheImm);
}

/* The @i-th moving immediate of a block with the header @b. */
static inline TbCacheImm tb_cache_imm(const TbCacheBlock *b,
                                      const uint8_t *data, unsigned i)
{
    const uint8_t *p = data + b->guest_size + b->code_size + b->search_size;
    TbCacheImm imm;

    memcpy(&imm, p + i * sizeof(imm), sizeof(imm));
    return imm;
}

/* Where it lies in the guest's code. */
static inline size_t tb_cache_imm_at(TbCacheImm imm)
{
    return imm.guest & ~TB_CACHE_IMM_RELATIVE;
}

/* tb-cache-directory.c */

/*
 * Which of many packs may have a block, by what of its key the entries of
 * their indexes tell.  Never changes; one piece of memory, for g_free_rcu().
 */
struct TbCacheDirectory {
    struct rcu_head rcu;
    uint64_t seed;
    unsigned n_packs;           /* that it covers, from the first on */
    unsigned bits;              /* the buckets' number is 1 << bits */
    uint32_t *start;            /* of each bucket, and the end of the last */
    uint32_t *entries;          /* bits of the hash, and a pack's number */
};

/**
 * tb_cache_directory_new: read the indexes of packs
 * @packs: as they are given to tb_cache_find()
 * @n: how many they are
 * @seed: that no guest knows, so that none can fill a bucket
 *
 * Returns NULL if there is not the memory.
 */
TbCacheDirectory *tb_cache_directory_new(TbCachePackFile **packs, unsigned n,
                                         uint64_t seed);

/** tb_cache_directory_hash: what leads to a block's bucket */
static inline uint64_t tb_cache_directory_hash(const TbCacheDirectory *d,
                                               uint16_t page_offset,
                                               bool is_long, uint64_t prefix)
{
    uint64_t h = tb_cache_mix(d->seed ^ (page_offset | is_long << 16));

    h = tb_cache_mix(h ^ prefix);
    return tb_cache_mix(h ^ d->seed);
}

/* The bucket's number, and what an entry has of the hash. */
static inline size_t tb_cache_directory_bucket(const TbCacheDirectory *d,
                                               uint64_t h)
{
    return h >> (64 - d->bits);
}

static inline uint32_t tb_cache_directory_entry(uint64_t h, uint32_t pack)
{
    return (uint32_t)h * TB_CACHE_MAX_PACKS + pack;
}

/* tb-cache-pack.c */

/**
 * tb_cache_pack_open: map a pack
 *
 * Returns the pack, or one with status other than "mapped", which has been
 * counted in @rejects.
 */
TbCachePackFile *tb_cache_pack_open(const char *path,
                                    const uint8_t *fingerprint,
                                    uint32_t page_bits,
                                    TbCacheRejects *rejects);

typedef void TbCacheAddPack(const char *path, void *opaque);

/**
 * tb_cache_boot_set_read: read which packs are to be mapped
 * @path: the file that names them, one a line
 * @add: called for each of them, in order
 */
void tb_cache_boot_set_read(const char *path, TbCacheAddPack *add,
                            void *opaque);

/**
 * tb_cache_check_file: refuse files that others could have written
 * @fd: the open file, or -1
 * @least: bytes that it must have
 * @size: its size
 *
 * Returns NULL, or the name of the reason, which has been counted.
 */
const char *tb_cache_check_file(int fd, size_t least, size_t *size,
                                TbCacheRejects *rejects);

/** tb_cache_pack_guard_init: survive a mapped file that shrinks */
void tb_cache_pack_guard_init(void);
void tb_cache_pack_guard_thread(void);

/** tb_cache_pack_populate: map the pages of a window in one go */
void tb_cache_pack_populate(TbCachePackFile *pack, size_t window);

#endif /* ACCEL_TCG_TB_CACHE_FIND_H */
