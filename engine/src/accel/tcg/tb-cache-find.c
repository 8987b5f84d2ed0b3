/*
 * Persistent translation cache: looking for a block in packs
 *
 * Copyright (c) 2026 The sysqcache authors
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Nothing that a pack holds is believed, and it may change while it is read:
 * what decides is read once, into a copy, and the copy is what is used.  So
 * is what the guest has where the block has an immediate that moves.
 */

#define XXH_INLINE_ALL
#include "qemu/osdep.h"
#include <xxhash.h>
#include "qemu/bswap.h"
#include "tb-cache-find.h"

void tb_cache_find_init(TbCacheFind *f)
{
    f->found = g_malloc(TB_CACHE_MAX_BLOCK);
}

static bool sane_jump(const TbCacheBlock *b, int n)
{
    uint32_t insn = b->jmp_insn_offset[n];
    uint32_t reset = b->jmp_reset_offset[n];

    if (reset == TB_CACHE_NO_JUMP) {
        return true;
    }
    return insn % 4 == 0 && insn + 4 <= b->code_size && reset <= b->code_size;
}

/* In order, inside the block, and apart from each other or the same. */
static bool sane_imms(const TbCacheBlock *b)
{
    unsigned n = tb_cache_nb_imms(b);
    size_t free = 0, last = SIZE_MAX;

    if (n > TB_CACHE_MAX_IMMS || (n && tb_cache_two_pages(b)) ||
        (!n && b->block_flags & TB_CACHE_BLOCK_SHORT_KEY)) {
        return false;
    }
    for (unsigned i = 0; i < n; i++) {
        TbCacheImm imm = tb_cache_imm(b, b->data, i);
        size_t at = tb_cache_imm_at(imm);

        if (imm.host == TCG_GUEST_IMM_NONE ||
            imm.host + (size_t)4 > b->code_size ||
            at + 4 > b->guest_size || (at < free && at != last)) {
            return false;
        }
        last = at;
        free = at + 4;
    }
    return true;
}

/* Whether the fields agree with each other; the checksum came first. */
static bool sane_block(const TbCacheBlock *b, const TbCacheKey *k)
{
    unsigned page_size = 1u << k->page_bits;

    return !(b->block_flags & ~TB_CACHE_BLOCK_KNOWN)
        && sane_imms(b)
        && !(tb_cache_any_context(b) && b->cflags & TB_CACHE_CF_PARALLEL)
        && b->guest_size > 0 && b->guest_size <= TB_CACHE_MAX_GUEST
        && b->icount > 0 && b->icount <= TB_CACHE_MAX_INSNS
        && b->code_size > 0 && b->search_size > 0
        && sane_jump(b, 0) && sane_jump(b, 1)
        && tb_cache_two_pages(b)
           == (b->page_offset + b->guest_size > page_size);
}

bool tb_cache_same_guest(const TbCacheBlock *b, const uint8_t *data,
                         const uint8_t *host, uint32_t *values)
{
    unsigned n = MIN(tb_cache_nb_imms(b), TB_CACHE_MAX_IMMS);
    size_t pos = 0, last = SIZE_MAX;

    for (unsigned i = 0; i < n; i++) {
        TbCacheImm imm = tb_cache_imm(b, data, i);
        size_t at = tb_cache_imm_at(imm);

        if (at == last) {
            values[i] = values[i - 1];
        } else {
            if (at < pos || at + 4 > b->guest_size ||
                memcmp(data + pos, host + pos, at - pos)) {
                return false;
            }
            /* Another vCPU may write there: one value for all uses. */
            memcpy(&values[i], host + at, 4);
            last = at;
            pos = at + 4;
        }
        if (!tcg_guest_imm_opaque(le32_to_cpu(values[i]),
                                  imm.guest & TB_CACHE_IMM_RELATIVE)) {
            return false;
        }
    }
    return !memcmp(data + pos, host + pos, b->guest_size - pos);
}

static bool same_key(const TbCacheBlock *b, const TbCacheKey *k)
{
    return b->cs_base == k->cs_base && b->flags == k->flags
        && b->cflags == k->cflags && b->page_offset == k->page_offset
        && (!k->any_context || tb_cache_any_context(b));
}

/* Compare what of the block lies in the first page. */
static bool same_first_page(TbCacheFind *f, const TbCacheBlock *b,
                            const uint8_t *data, const TbCacheKey *k)
{
    if (b->guest_size <= k->avail) {
        return tb_cache_same_guest(b, data, k->host, f->imms);
    }
    return !k->one_page && !memcmp(data, k->host, k->avail);
}

static bool same_second_page(TbCacheFind *f, const TbCacheBlock *b,
                             const TbCacheKey *k)
{
    if (b->guest_size <= k->avail) {
        return true;
    }
    if (!f->page2_tried) {
        f->page2_tried = true;
        f->page2 = f->get_page2(f);
    }
    if (!f->page2) {
        f->miss = &f->misses.page2;
        return false;
    }
    if (memcmp(b->data, k->host, k->avail) ||
        memcmp(b->data + k->avail, f->page2, b->guest_size - k->avail)) {
        f->miss = &f->misses.bytes;
        return false;
    }
    return true;
}

static void reject(TbCacheFind *f, uint64_t *reason)
{
    tb_cache_count(reason, 1);
    f->miss = &f->misses.rejected;
}

static void note_window(TbCacheFind *f, TbCachePackFile *pack, size_t offset)
{
    size_t window = offset >> TB_CACHE_WINDOW_BITS;

    if (unlikely(!tb_cache_test_bit(window, pack->windows))) {
        f->cold = pack;
        f->cold_window = window;
    }
}

void tb_cache_find_populate(TbCacheFind *f)
{
    TbCachePackFile *pack = f->cold;
    size_t window = f->cold_window;

    f->cold = NULL;
    tb_cache_pack_populate(pack, window);
    /* Blocks are asked for in about the order in which they lie. */
    if ((window + 1) << TB_CACHE_WINDOW_BITS < pack->blocks_end) {
        tb_cache_pack_populate(pack, window + 1);
    }
}

/* Packs are in the order in which a run asked for the blocks. */
static void prefetch_next(const uint8_t *next)
{
    for (int i = 0; i < 6; i++) {
        __builtin_prefetch(next + i * 64);
    }
}

/* Copy the block that is at @offset of @pack; NULL if it does not fit there. */
static TbCacheBlock *copy_header(TbCacheFind *f, TbCachePackFile *pack,
                                 size_t offset, size_t *size)
{
    TbCacheBlock *b = f->found;

    if (unlikely(offset < TB_CACHE_HEADER_SIZE ||
                 offset + sizeof(*b) > pack->blocks_end)) {
        return NULL;
    }
    memcpy(b, pack->base + offset, sizeof(*b));
    *size = tb_cache_body_size(b);
    if (unlikely(*size > pack->blocks_end - offset - sizeof(*b) ||
                 *size > TB_CACHE_MAX_BLOCK - sizeof(*b))) {
        return NULL;
    }
    return b;
}

/* Returns a copy of the block at @position of @pack, if it fits. */
static const TbCacheBlock *try_block(TbCacheFind *f, TbCachePackFile *pack,
                                     uint32_t position, const TbCacheKey *k)
{
    size_t offset = (size_t)position * TB_CACHE_ALIGN;
    const uint8_t *data = pack->base + offset + sizeof(TbCacheBlock);
    TbCacheBlock *b;
    size_t size;

    b = copy_header(f, pack, offset, &size);
    if (unlikely(!b)) {
        reject(f, &f->rejected.bounds);
        return NULL;
    }
    note_window(f, pack, offset);
    if (!same_key(b, k)) {
        return NULL;
    }
    /* Most that don't fit end here, without a copy. */
    if (!same_first_page(f, b, data, k)) {
        if (!k->one_page || b->guest_size <= k->avail) {
            f->miss = &f->misses.bytes;
        }
        return NULL;
    }
    memcpy(b->data, data, size);
    prefetch_next(data + size);
    if (unlikely(XXH3_64bits(&b->cs_base, sizeof(*b) - sizeof(b->checksum)
                             + size) != b->checksum)) {
        reject(f, &f->rejected.checksum);
        return NULL;
    }
    if (unlikely(!sane_block(b, k))) {
        reject(f, &f->rejected.bounds);
        return NULL;
    }
    if (!same_first_page(f, b, b->data, k)) {
        f->miss = &f->misses.bytes;
        return NULL;
    }
    if (!same_second_page(f, b, k)) {
        return NULL;
    }
    f->pack = pack;
    f->position = position;
    return b;
}

/* Whether @pack says that it holds no block with the flags of @k. */
static bool other_flags(const TbCachePackFile *pack, const TbCacheKey *k)
{
    return (k->flags & pack->flags_clear) | (~k->flags & pack->flags_set);
}

/*
 * Look in a pack for a block with this @prefix.  Longer blocks come first in
 * the index, and any that fits is right.
 */
static const TbCacheBlock *find_in_pack(TbCacheFind *f, TbCachePackFile *pack,
                                        const TbCacheKey *k, bool is_long,
                                        uint64_t prefix)
{
    uint64_t h, slot, end;
    unsigned tried = 0;
    uint16_t tag;

    if (other_flags(pack, k)) {
        return NULL;
    }
    h = tb_cache_hash(pack->seed, k->page_offset, is_long, prefix,
                      k->flags, k->cflags, k->cs_base);
    slot = ((h >> 32) * pack->slot_count) >> 32;
    end = MIN(pack->index_entries, slot + TB_CACHE_MAX_WALK);
    tag = h;
    for (; slot < end; slot++) {
        TbCacheIndexEntry e = pack->index[slot];
        const TbCacheBlock *b;

        if (e.position == 0) {
            return NULL;
        }
        if (e.tag != tag ||
            (is_long ? e.prefix : e.prefix & 0xff) != prefix) {
            continue;
        }
        if (tried++ == TB_CACHE_MAX_CANDIDATES) {
            break;
        }
        b = try_block(f, pack, e.position, k);
        if (b) {
            return b;
        }
    }
    f->miss = &f->misses.crowded;
    return NULL;
}

/* Look in those packs that @d lists for such a block. */
static const TbCacheBlock *find_listed(TbCacheFind *f,
                                       const TbCacheDirectory *d,
                                       TbCachePackFile **packs,
                                       const TbCacheKey *k,
                                       bool is_long, uint64_t prefix)
{
    uint64_t h = tb_cache_directory_hash(d, k->page_offset, is_long, prefix);
    size_t bucket = tb_cache_directory_bucket(d, h);
    uint32_t first = tb_cache_directory_entry(h, 0);

    for (uint32_t i = d->start[bucket]; i < d->start[bucket + 1]; i++) {
        uint32_t pack = d->entries[i] - first;

        if (pack < d->n_packs) {
            const TbCacheBlock *b = find_in_pack(f, packs[pack], k, is_long,
                                                 prefix);

            if (b) {
                return b;
            }
        }
    }
    return NULL;
}

static const TbCacheBlock *find_prefix(TbCacheFind *f, TbCachePackFile **packs,
                                       unsigned n, const TbCacheKey *k,
                                       bool is_long, uint64_t prefix)
{
    const TbCacheDirectory *d = f->directory;
    const TbCacheBlock *b;

    if (d) {
        b = find_listed(f, d, packs, k, is_long, prefix);
        if (b) {
            return b;
        }
    }
    for (unsigned i = d ? d->n_packs : 0; i < n; i++) {
        b = find_in_pack(f, packs[i], k, is_long, prefix);
        if (b) {
            return b;
        }
    }
    return NULL;
}

/*
 * Runs ask for blocks in much the same order, which is the order of a pack:
 * the block behind the one that was found last is often the one that is
 * wanted next.  It is in the processor's cache by now, unlike the index.
 */
static const TbCacheBlock *find_next(TbCacheFind *f, TbCachePackFile **packs,
                                     const TbCacheKey *k)
{
    uint64_t *miss = f->miss;

    for (int i = 0; i < TB_CACHE_RECENT; i++) {
        uint32_t behind = f->recent[i].behind;
        TbCachePackFile *pack = packs[f->recent[i].pack];
        size_t offset = (size_t)behind * TB_CACHE_ALIGN;
        const TbCacheBlock *b = (const TbCacheBlock *)(pack->base + offset);

        if (offset == 0 || offset + sizeof(*b) >= pack->blocks_end ||
            other_flags(pack, k) || b->page_offset != k->page_offset ||
            b->flags != k->flags || b->cflags != k->cflags ||
            b->data[0] != k->host[0]) {
            continue;
        }
        b = try_block(f, pack, behind, k);
        if (b) {
            return b;
        }
        /* What the index says is the reason, if it is one. */
        f->miss = miss;
    }
    return NULL;
}

/* @b is what was found: its pack becomes the first of the recent ones. */
static void remember(TbCacheFind *f, const TbCacheBlock *b)
{
    uint32_t pack = f->pack->number;
    int i = 0;

    while (i < TB_CACHE_RECENT - 1 && f->recent[i].pack != pack) {
        i++;
    }
    memmove(&f->recent[1], &f->recent[0], i * sizeof(f->recent[0]));
    f->recent[0].pack = pack;
    f->recent[0].behind =
        f->position + DIV_ROUND_UP(sizeof(*b) + tb_cache_body_size(b),
                                   TB_CACHE_ALIGN);
}

const TbCacheBlock *tb_cache_find_exactly(TbCacheFind *f,
                                          TbCachePackFile **packs, unsigned n,
                                          const TbCacheKey *k)
{
    const TbCacheBlock *b = NULL;
    uint64_t prefix;

    if (k->avail >= TB_CACHE_PREFIX) {
        memcpy(&prefix, k->host, sizeof(prefix));
        b = find_prefix(f, packs, n, k, true, le64_to_cpu(prefix));
    }
    return b ?: find_prefix(f, packs, n, k, false, k->host[0]);
}

/*
 * Blocks that serve both values of CF_PARALLEL are kept as if it were off,
 * as are those that need it to be: so one lookup does where it is off.
 */
const TbCacheBlock *tb_cache_find(TbCacheFind *f, TbCachePackFile **packs,
                                  unsigned n, const TbCacheKey *k)
{
    TbCacheKey any = *k;
    const TbCacheBlock *b;

    if (unlikely(n == 0)) {
        f->miss = &f->misses.no_pack;
        return NULL;
    }
    any.any_context = k->cflags & TB_CACHE_CF_PARALLEL;
    any.cflags &= ~TB_CACHE_CF_PARALLEL;
    f->miss = &f->misses.absent;
    f->page2 = NULL;
    f->page2_tried = false;
    b = find_next(f, packs, &any)
        ?: tb_cache_find_exactly(f, packs, n, &any);
    if (!b && any.any_context) {
        b = tb_cache_find_exactly(f, packs, n, k);
    }
    if (b) {
        remember(f, b);
    }
    return b;
}
