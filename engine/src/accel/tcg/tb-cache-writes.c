/*
 * Persistent translation cache: code that is written to
 *
 * Copyright (c) 2026 The sysqcache authors
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Almost every block that a write invalidates lies in a page that is being
 * reused, or comes back as it was.  What tells code that rewrites itself is
 * the same place holding other code again and again.  Such a place is dead:
 * nothing is adopted or recorded there any more.
 */

#define XXH_INLINE_ALL
#include "qemu/osdep.h"
#include <xxhash.h>
#include "qemu/bitops.h"
#include "qemu/bitmap.h"
#include "qemu/bswap.h"
#include "tb-cache-internal.h"

#define AREAS_BITS  16
#define PAGES_BITS  16

/* So many times other code in one place: far more than page reuse makes. */
#define DEAD_CHANGES 16

/* Where a block began that was written to, and what was there since. */
typedef struct Area {
    uint64_t ram;               /* ram_addr_t + 1; 0: free */
    uint64_t hash;              /* of the whole block; 0: not seen since */
    uint64_t prefix;            /* first bytes of the block */
    uint32_t size;
    uint16_t changes;
    bool dead;
} Area;

static struct {
    QemuMutex lock;
    Area *areas;
    unsigned dead;
    /* Pages with areas, so that all other blocks need no lock. */
    unsigned long pages[BITS_TO_LONGS(1 << PAGES_BITS)];
} writes;

void tb_cache_writes_init(void)
{
    qemu_mutex_init(&writes.lock);
    writes.areas = g_new0(Area, 1 << AREAS_BITS);
}

static unsigned page_bit(ram_addr_t ram)
{
    return (ram >> 12) & ((1 << PAGES_BITS) - 1);
}

/* Returns the area at @ram, one that is free, or NULL if all are taken. */
static Area *find_area_locked(ram_addr_t ram)
{
    unsigned i = tb_cache_mix(ram) >> (64 - AREAS_BITS);

    for (unsigned n = 0; n < 64; n++) {
        Area *a = &writes.areas[(i + n) & ((1 << AREAS_BITS) - 1)];

        if (a->ram == ram + 1 || a->ram == 0) {
            return a;
        }
    }
    return NULL;
}

void tb_cache_written_slow(ram_addr_t ram)
{
    Area *a;

    qemu_mutex_lock(&writes.lock);
    a = find_area_locked(ram);
    if (a) {
        a->ram = ram + 1;
        set_bit_atomic(page_bit(ram), writes.pages);
    }
    qemu_mutex_unlock(&writes.lock);
}

bool tb_cache_is_dead(ram_addr_t ram)
{
    bool dead = false;
    Area *a;

    if (likely(!test_bit(page_bit(ram), writes.pages))) {
        return false;
    }
    qemu_mutex_lock(&writes.lock);
    a = find_area_locked(ram);
    if (a && a->ram) {
        dead = a->dead;
    }
    qemu_mutex_unlock(&writes.lock);
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

void tb_cache_content(TbCache *s, ram_addr_t ram, const uint8_t *code,
                      uint32_t size)
{
    uint64_t prefix = 0, hash;
    bool died = false;
    Area *a;

    if (likely(!test_bit(page_bit(ram), writes.pages))) {
        return;
    }
    memcpy(&prefix, code, MIN(size, sizeof(prefix)));
    hash = XXH3_64bits(code, size) | 1;

    qemu_mutex_lock(&writes.lock);
    a = find_area_locked(ram);
    if (a && a->ram) {
        a->changes += changed(a, prefix, hash, size);
        died = !a->dead && a->changes == DEAD_CHANGES;
        a->dead |= died;
        a->hash = hash;
        a->prefix = prefix;
        a->size = size;
        writes.dead += died;
    }
    qemu_mutex_unlock(&writes.lock);
    if (died) {
        tb_cache_journal_dead(s, ram, size, DEAD_CHANGES);
    }
}

unsigned tb_cache_nb_dead(void)
{
    return qatomic_read(&writes.dead);
}
