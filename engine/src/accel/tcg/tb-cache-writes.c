/*
 * Persistent translation cache: code that is written to
 *
 * Copyright (c) 2026 The sysqcache authors
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Almost every block that a write invalidates lies in a page that is being
 * reused, or comes back as it was.  What tells code that rewrites itself is
 * the same place holding other code again and again, and soon: a page that
 * is reused is filled, used, and given up before it is filled again.  Such
 * a place is dead: nothing is adopted or recorded there any more.
 */

#define XXH_INLINE_ALL
#include "qemu/osdep.h"
#include <xxhash.h>
#include "qemu/bitops.h"
#include "qemu/bswap.h"
#include "qemu/rcu.h"
#include "qemu/timer.h"
#include "exec/cpu-common.h"
#include "exec/memory.h"
#include "tb-cache-internal.h"

#define AREAS_BITS  7           /* of a shard */
#define SHARDS_BITS 6
#define PAGES_BITS  16

/* An area is within so many places of where its hash points to. */
#define PROBES      8

/*
 * So many times other code in one place, each at most so long after the one
 * before: far more than page reuse makes.
 */
#define DEAD_CHANGES 16
#define CHANGE_NS    NANOSECONDS_PER_SECOND

/* Where a block began that was written to, and what was there since. */
typedef struct Area {
    uint64_t ram;               /* ram_addr_t + 1; 0: free */
    uint64_t hash;              /* of the whole block; 0: not seen since */
    uint64_t prefix;            /* first bytes of the block */
    int64_t when;               /* of the last change, ns */
    uint32_t size;
    uint16_t changes;
    bool written;               /* since the content was last seen */
    bool dead;
} Area;

/* What lies in one page is in one shard; vCPUs rarely want the same one. */
typedef struct QEMU_ALIGNED(64) Shard {
    QemuMutex lock;
    Area *areas;
    unsigned dead;
    TbCacheWrites counters;
} Shard;

static Shard shards[1 << SHARDS_BITS];

/* Pages with areas, so that all other blocks need no lock. */
static unsigned long pages[BITS_TO_LONGS(1 << PAGES_BITS)];

void tb_cache_writes_init(void)
{
    for (int i = 0; i < ARRAY_SIZE(shards); i++) {
        qemu_mutex_init(&shards[i].lock);
        shards[i].areas = g_new0(Area, 1 << AREAS_BITS);
    }
}

static unsigned page_bit(ram_addr_t ram)
{
    return (ram >> 12) & ((1 << PAGES_BITS) - 1);
}

static Shard *shard_of(ram_addr_t ram)
{
    return &shards[tb_cache_mix(ram >> 12) >> (64 - SHARDS_BITS)];
}

/*
 * Returns the area at @ram or, if @make, one that is free or has changed
 * least recently; NULL if there is none.
 */
static Area *find_area_locked(Shard *s, ram_addr_t ram, bool make)
{
    unsigned i = tb_cache_mix(ram) >> (64 - AREAS_BITS);
    Area *oldest = NULL;

    for (unsigned n = 0; n < PROBES; n++) {
        Area *a = &s->areas[(i + n) & ((1 << AREAS_BITS) - 1)];

        if (a->ram == ram + 1) {
            return a;
        }
        if (a->ram == 0) {
            oldest = a;
            break;
        }
        if (!a->dead && (!oldest || a->when < oldest->when)) {
            oldest = a;
        }
    }
    if (!make || !oldest) {
        return NULL;
    }
    *oldest = (Area) { .ram = ram + 1, .when = get_clock() };
    set_bit_atomic(page_bit(ram), pages);
    return oldest;
}

static bool is_rom(ram_addr_t ram)
{
    ram_addr_t offset;
    MemoryRegion *mr;

    RCU_READ_LOCK_GUARD();
    mr = memory_region_from_host(qemu_map_ram_ptr(NULL, ram), &offset);
    return mr && (mr->readonly || mr->rom_device);
}

void tb_cache_written_slow(ram_addr_t ram, bool store)
{
    Shard *s = shard_of(ram);
    TbCacheWrites *c = &s->counters;
    uint64_t *counter = store ? &c->store : is_rom(ram) ? &c->rom : &c->device;
    Area *a;

    qemu_mutex_lock(&s->lock);
    (*counter)++;
    a = find_area_locked(s, ram, true);
    if (a) {
        a->written = true;
    }
    qemu_mutex_unlock(&s->lock);
}

bool tb_cache_is_dead(ram_addr_t ram)
{
    Shard *s = shard_of(ram);
    bool dead = false;
    Area *a;

    if (likely(!tb_cache_test_bit(page_bit(ram), pages))) {
        return false;
    }
    qemu_mutex_lock(&s->lock);
    a = find_area_locked(s, ram, false);
    if (a) {
        dead = a->dead;
    }
    qemu_mutex_unlock(&s->lock);
    return dead;
}

/*
 * Blocks of another size in one place are other code only if they begin
 * differently: where a block ends has other reasons as well.
 */
static bool changed(const Area *a, uint64_t prefix, uint64_t hash,
                    uint32_t size)
{
    return a->hash && (a->prefix != prefix ||
                       (a->size == size && a->hash != hash));
}

/* Returns whether the place has just become dead. */
static bool changed_locked(Shard *s, Area *a)
{
    int64_t now = get_clock();

    s->counters.changed++;
    a->changes = now - a->when < CHANGE_NS ? a->changes + 1 : 1;
    a->when = now;
    if (a->dead || a->changes < DEAD_CHANGES) {
        return false;
    }
    a->dead = true;
    s->dead++;
    return true;
}

void tb_cache_content(ram_addr_t ram, const uint8_t *code, uint32_t size,
                      TbCacheDead *died)
{
    Shard *s = shard_of(ram);
    uint64_t prefix = 0, hash;
    Area *a;

    if (likely(!tb_cache_test_bit(page_bit(ram), pages))) {
        return;
    }
    memcpy(&prefix, code, MIN(size, sizeof(prefix)));
    hash = XXH3_64bits(code, size) | 1;

    qemu_mutex_lock(&s->lock);
    a = find_area_locked(s, ram, false);
    if (a) {
        if (changed(a, prefix, hash, size)) {
            if (changed_locked(s, a)) {
                *died = (TbCacheDead){ ram, size, DEAD_CHANGES };
            }
        } else {
            s->counters.returned += a->written && a->hash;
        }
        a->hash = hash;
        a->prefix = prefix;
        a->size = size;
        a->written = false;
    }
    qemu_mutex_unlock(&s->lock);
}

unsigned tb_cache_get_writes(TbCacheWrites *info)
{
    unsigned dead = 0;

    for (int i = 0; i < ARRAY_SIZE(shards) && shards[i].areas; i++) {
        Shard *s = &shards[i];

        qemu_mutex_lock(&s->lock);
        info->store += s->counters.store;
        info->device += s->counters.device;
        info->rom += s->counters.rom;
        info->returned += s->counters.returned;
        info->changed += s->counters.changed;
        dead += s->dead;
        qemu_mutex_unlock(&s->lock);
    }
    return dead;
}
