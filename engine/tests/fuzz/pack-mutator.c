/*
 * Fuzzing the translation cache: packs that are nearly right
 *
 * Copyright (c) 2026 The sysqcache authors
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * A changed pack gets past its checksums and its index only if they are
 * made for it, which is done here for most of them.
 */

#define XXH_STATIC_LINKING_ONLY
#include "qemu/osdep.h"
#include <xxhash.h>
#include "pack-input.h"

#pragma clang attribute push(__attribute__((no_sanitize("coverage"))), \
                             apply_to = function)

#define MAX_PART    (64 * KiB)
#define MAX_BLOCKS  64

/* The input that is worked on; @in leads to the parts. */
static struct {
    FuzzInput in;
    uint8_t blocks[MAX_PART];
    uint8_t index[MAX_PART];
    size_t at[MAX_BLOCKS];      /* where blocks begin */
    unsigned n;
    size_t end;                 /* of the last one, stored or not */
} w;

static uint64_t random_state;

static uint32_t pick(uint32_t n)
{
    random_state = tb_cache_mix(random_state + 0x632be59bd9b4e019ull);
    return (random_state >> 32) % n;
}

static const uint32_t numbers[] = {
    0, 1, 3, 4, 7, 8, 15, 16, 47, 48, 49, 63, 64, 255, 256, 512, 513, 4080,
    4088, 4095, 4096, 4097, 8192, 0x7fff, 0x8000, 0xfffc, 0xffff, 0x10000,
    0x10003, 0x17fd0, 0x17ff0, 0x18000, 0x18001, 0x3000, 0x3100,
    /* where immediates begin or cease to be opaque */
    0x03ffffff, 0x04000000, 0x7fffffff, 0x80000000, 0xfbffffff, 0xfc000000,
    0xfeffffff, 0xff000000, 0xfffffff0, 0xffffffff,
};

static uint32_t number(void)
{
    return numbers[pick(G_N_ELEMENTS(numbers))];
}

/* Another number at @p, of @size bytes: near by, an odd one, or with a bit. */
static void change_number(uint8_t *p, size_t size)
{
    uint64_t v = 0;

    memcpy(&v, p, size);
    switch (pick(4)) {
    case 0:
        v += (int64_t)pick(9) - 4;
        break;
    case 1:
        v ^= 1ull << pick(size * 8);
        break;
    case 2:
        v = number();
        break;
    default:
        v = number() + (uint64_t)pick(16) - 8;
        break;
    }
    memcpy(p, &v, size);
}

static void change_bytes(uint8_t *p, size_t size)
{
    if (size) {
        LLVMFuzzerMutate(p, size, size);
    }
}

static void seal_header(TbCachePackHeader *h)
{
    h->checksum = XXH3_64bits(h, offsetof(TbCachePackHeader, checksum));
}

static bool parse_pack(FuzzInput *in, const uint8_t *data, size_t size)
{
    FuzzScript script = { .packs = 1 };

    memcpy(&in->header, data, FUZZ_TEXT);
    seal_header(&in->header);
    for (int i = 0; i < FUZZ_LOOKUPS; i++) {
        script.lookup[i].block = i;
    }
    in->blocks = data + TB_CACHE_HEADER_SIZE;
    in->blocks_size = MIN(in->header.blocks_size, size - TB_CACHE_HEADER_SIZE);
    in->index = data + MIN(in->header.index_offset, size);
    in->index_size = data + size - in->index;
    script.blocks_size = in->blocks_size;
    in->script = script;
    return true;
}

bool fuzz_parse(FuzzInput *in, const uint8_t *data, size_t size)
{
    memset(&in->header, 0, sizeof(in->header));
    if (size >= TB_CACHE_HEADER_SIZE &&
        !memcmp(data, TB_CACHE_PACK_MAGIC, sizeof(in->header.magic))) {
        return parse_pack(in, data, size);
    }
    if (size < FUZZ_LEAST) {
        return false;
    }
    memcpy(&in->script, data, sizeof(in->script));
    memcpy(&in->header, data + sizeof(in->script), FUZZ_TEXT);
    memcpy(&in->header.checksum, data + FUZZ_LEAST - sizeof(uint64_t),
           sizeof(uint64_t));
    in->blocks = data + FUZZ_LEAST;
    in->blocks_size = MIN(in->script.blocks_size, size - FUZZ_LEAST);
    in->index = in->blocks + in->blocks_size;
    in->index_size = data + size - in->index;
    return true;
}

static size_t store(uint8_t *data, size_t max)
{
    FuzzInput *in = &w.in;
    uint8_t *p = data;

    if (FUZZ_LEAST + in->blocks_size + in->index_size > max) {
        return 0;
    }
    in->script.blocks_size = in->blocks_size;
    p = mempcpy(p, &in->script, sizeof(in->script));
    p = mempcpy(p, &in->header, FUZZ_TEXT);
    p = mempcpy(p, &in->header.checksum, sizeof(uint64_t));
    p = mempcpy(p, w.blocks, in->blocks_size);
    p = mempcpy(p, w.index, in->index_size);
    return p - data;
}

/* Not more than can be read safely: the header of a block may be cut off. */
static TbCacheBlock header_at(size_t at)
{
    TbCacheBlock b;

    memcpy(&b, w.blocks + at, sizeof(b));
    return b;
}

static size_t padded_size(const TbCacheBlock *b)
{
    return ROUND_UP(sizeof(*b) + tb_cache_body_size(b), TB_CACHE_ALIGN);
}

/* Find out where blocks are; the last one may end behind what is stored. */
static void walk(void)
{
    size_t at = 0;

    w.n = 0;
    w.end = 0;
    while (w.n < MAX_BLOCKS && at + sizeof(TbCacheBlock) <= w.in.blocks_size) {
        TbCacheBlock b = header_at(at);

        w.at[w.n++] = at;
        at += padded_size(&b);
        w.end = at;
    }
}

static void seal_block(size_t at)
{
    static const uint8_t zeros[FUZZ_MAX_FILE];
    TbCacheBlock b = header_at(at);
    size_t size = sizeof(b) + tb_cache_body_size(&b) - sizeof(b.checksum);
    size_t stored = MIN(size, w.in.blocks_size - at - sizeof(b.checksum));
    XXH3_state_t state;
    uint64_t sum;

    if (size > FUZZ_MAX_FILE) {
        return;
    }
    XXH3_64bits_reset(&state);
    XXH3_64bits_update(&state, w.blocks + at + sizeof(sum), stored);
    XXH3_64bits_update(&state, zeros, size - stored);
    sum = XXH3_64bits_digest(&state);
    memcpy(w.blocks + at, &sum, sizeof(sum));
}

/* Returns the hash of the block at @at, and sets its entry but for the slot. */
static uint64_t index_block(size_t at, TbCacheIndexEntry *e)
{
    TbCacheBlock b = header_at(at);
    bool is_long = b.guest_size >= TB_CACHE_PREFIX &&
                   b.page_offset <= 4096 - TB_CACHE_PREFIX &&
                   !(b.block_flags & TB_CACHE_BLOCK_SHORT_KEY);
    size_t guest = at + sizeof(b);
    uint64_t h;

    *e = (TbCacheIndexEntry) {
        .position = (TB_CACHE_HEADER_SIZE + at) / TB_CACHE_ALIGN,
        .page_offset = (b.page_offset & 4095) | TB_CACHE_INDEX_TOLD |
                       (is_long ? TB_CACHE_INDEX_LONG : 0),
    };
    memcpy(&e->prefix, w.blocks + guest,
           MIN(MIN(b.guest_size, TB_CACHE_PREFIX),
               w.in.blocks_size - MIN(guest, w.in.blocks_size)));
    h = tb_cache_hash(w.in.header.seed, b.page_offset, is_long,
                      is_long ? e->prefix : e->prefix & 0xff, b.flags,
                      b.cflags, b.cs_base);
    e->tag = h;
    return h;
}

/* Make the index, and a header that knows of it. */
static void make_index(void)
{
    TbCachePackHeader *h = &w.in.header;
    size_t slots = w.n + 1 + pick(8);
    TbCacheIndexEntry index[2 * MAX_BLOCKS + 10] = { 0 };
    size_t used = slots;

    h->flags_any = 0;
    h->flags_all = -1;
    for (unsigned i = 0; i < w.n; i++) {
        TbCacheIndexEntry e;
        uint32_t flags = header_at(w.at[i]).flags;
        size_t slot = (index_block(w.at[i], &e) >> 32) * slots >> 32;

        while (index[slot].position) {
            slot++;
        }
        index[slot] = e;
        used = MAX(used, slot + 1);
        h->flags_any |= flags;
        h->flags_all &= flags;
    }
    if (pick(2)) {
        h->flags_any = h->flags_all = 0;
    }
    w.in.index_size = (used + 1) * sizeof(index[0]);
    memcpy(w.index, index, w.in.index_size);
    memcpy(h->magic, TB_CACHE_PACK_MAGIC, sizeof(h->magic));
    h->version = TB_CACHE_VERSION;
    h->header_size = sizeof(*h);
    h->page_bits = 12;
    h->block_count = w.n;
    h->slot_count = slots;
    h->index_entries = used + 1;
    h->blocks_offset = sizeof(*h);
    h->blocks_size = w.end;
    h->index_offset = ROUND_UP(sizeof(*h) + w.end, sizeof(*h));
    h->file_size = h->index_offset + w.in.index_size;
}

static void change_header(void)
{
    size_t size = pick(2) ? 4 : 8;
    size_t at = pick(FUZZ_TEXT / size) * size;

    change_number((uint8_t *)&w.in.header + at, size);
}

/* A jump near the end of the host's code, or anywhere. */
static void change_jump(size_t at)
{
    TbCacheBlock b = header_at(at);
    int n = pick(2);

    b.jmp_reset_offset[n] = pick(2) ? b.code_size : pick(256);
    b.jmp_insn_offset[n] = pick(4) ? b.code_size - pick(8) : pick(256);
    memcpy(w.blocks + at, &b, sizeof(b));
}

static void change_block(void)
{
    size_t at = w.at[pick(w.n)];
    size_t room = w.in.blocks_size - at;
    TbCacheBlock b = header_at(at);
    size_t size = MIN(padded_size(&b), room);
    size_t imms = tb_cache_nb_imms(&b) * sizeof(TbCacheImm);
    size_t end = MIN(sizeof(b) + tb_cache_body_size(&b), room);
    size_t field = pick(sizeof(b) / 4) * 4;

    switch (pick(8)) {
    case 0:
        change_bytes(w.blocks + at + sizeof(b), size - sizeof(b));
        break;
    case 1:
        change_jump(at);
        break;
    case 2:
    case 3:
        if (imms && imms <= end) {
            size_t imm = end - imms + pick(imms / 2) * 2;

            change_number(w.blocks + at + imm, 2);
            break;
        }
        /* fall through */
    case 4:
        change_number(w.blocks + at + field, 4);
        break;
    default:
        change_number(w.blocks + at + field + 2 * pick(2), 2);
        break;
    }
}

/* One more block, like another one. */
static void repeat_block(void)
{
    size_t at = w.at[pick(w.n)];
    TbCacheBlock b = header_at(at);
    size_t size = padded_size(&b);
    size_t to = w.in.blocks_size;

    if (size <= to - at && to % TB_CACHE_ALIGN == 0 && w.end == to &&
        to + size <= 8 * KiB) {
        memmove(w.blocks + to, w.blocks + at, size);
        w.in.blocks_size += size;
    }
}

/* Fewer or more immediates: their number, and room for them. */
static void count_imms(void)
{
    size_t at = w.at[w.n - 1];
    TbCacheBlock b = header_at(at);
    unsigned n = pick(4) ? pick(6) : pick(256);

    b.block_flags &= ~TB_CACHE_BLOCK_IMMS_MASK;
    b.block_flags |= n << TB_CACHE_BLOCK_IMMS_SHIFT;
    if (padded_size(&b) <= MAX_PART - at) {
        size_t end = at + padded_size(&b);

        memcpy(w.blocks + at, &b, sizeof(b));
        memset(w.blocks + w.in.blocks_size, 0,
               MAX(end, w.in.blocks_size) - w.in.blocks_size);
        w.in.blocks_size = end;
        for (unsigned i = 0; i < n && pick(16); i++) {
            TbCacheImm imm = {
                .guest = (pick(2) ? 4 * i : pick(b.guest_size + 1)) |
                         (pick(4) ? 0 : TB_CACHE_IMM_RELATIVE),
                .host = pick(b.code_size < 1000 ? b.code_size + 1 : 70000),
            };

            memcpy(w.blocks + at + sizeof(b) + b.guest_size + b.code_size
                   + b.search_size + i * sizeof(imm), &imm, sizeof(imm));
        }
    }
}

/* A block on two pages, of which the guest may change what is compared. */
static void cross_page(void)
{
    FuzzLookup *l = &w.in.script.lookup[pick(FUZZ_LOOKUPS)];
    size_t at = w.at[pick(w.n)];
    TbCacheBlock b = header_at(at);

    if (b.guest_size > 1) {
        b.page_offset = 4096 - 1 - pick(MIN(b.guest_size, 4096) - 1);
        b.search_size += tb_cache_nb_imms(&b) * sizeof(TbCacheImm);
        b.block_flags &= ~TB_CACHE_BLOCK_IMMS_MASK & ~TB_CACHE_BLOCK_SHORT_KEY;
        b.block_flags |= TB_CACHE_BLOCK_TWO_PAGES;
        memcpy(w.blocks + at, &b, sizeof(b));
        l->block = pick(w.n);
        l->how = pick(4) ? 0 : 1u << pick(6);
        l->change[0] = (FuzzChange) {
            .what = FUZZ_BYTE,
            .when = pick(4) ? FUZZ_AT_PAGE2 : pick(16),
            .at = pick(b.guest_size),
            .value = pick(256),
        };
    }
}

/* So many entries like one of them that no empty one is reached. */
static void crowd_index(void)
{
    size_t n = TB_CACHE_MAX_CANDIDATES + pick(MAX_BLOCKS);
    FuzzLookup *l = &w.in.script.lookup[pick(FUZZ_LOOKUPS)];
    TbCacheIndexEntry e;

    memcpy(&e, w.index + pick(MAX_BLOCKS) * sizeof(e), sizeof(e));
    for (size_t i = 0; i < n; i++) {
        memcpy(w.index + i * sizeof(e), &e, sizeof(e));
    }
    w.in.index_size = n * sizeof(e);
    w.in.header.index_entries = n;
    w.in.header.file_size = w.in.header.index_offset + w.in.index_size;
    l->block = 0;
    l->change[0] = (FuzzChange) {
        .what = FUZZ_BYTE,
        .at = TB_CACHE_PREFIX + pick(32),
        .value = pick(256),
    };
}

static void change_index(void)
{
    size_t n = w.in.index_size / sizeof(TbCacheIndexEntry);

    if (n && pick(8)) {
        change_number(w.index + pick(n) * sizeof(TbCacheIndexEntry)
                      + 4 * pick(4), 4);
    } else {
        crowd_index();
    }
}

static void change_script(void)
{
    FuzzScript *s = &w.in.script;
    FuzzLookup *l = &s->lookup[pick(FUZZ_LOOKUPS)];
    FuzzChange *c = &l->change[pick(FUZZ_CHANGES)];

    switch (pick(8)) {
    case 0:
        change_bytes((uint8_t *)s, sizeof(*s));
        break;
    case 1:
        l->block = pick(w.n + 1);
        l->how = pick(3) ? l->how ^ 1u << pick(6) : 0;
        break;
    case 2:
        s->packs = (1 + pick(2)) | (pick(2) ? FUZZ_DIRECTORY : 0);
        s->longer = pick(4) ? 0 : (int16_t)number();
        s->foreign = pick(8) == 0;
        break;
    default:
        c->what = pick(FUZZ_WHATS);
        c->when = pick(3) ? pick(12) : pick(2) ? FUZZ_AT_PAGE2 : FUZZ_BEFORE;
        c->at = pick(2) ? pick(16) * 4 : pick(256);
        c->value = pick(2) ? number() : pick(256);
        break;
    }
}

/* A block whose checksum is right only once it changes under a lookup. */
static void set_trap(void)
{
    FuzzLookup *l = &w.in.script.lookup[pick(FUZZ_LOOKUPS)];
    size_t at = w.at[pick(w.n)];
    FuzzChange c = {
        .what = FUZZ_BLOCK,
        .when = 1 + pick(8),
        .at = 4 * pick(16) + (pick(4) ? sizeof(TbCacheBlock) : 0),
        .value = pick(2) ? number() : pick(256),
    };
    uint8_t *p = w.blocks + at + c.at;
    uint32_t before;

    if (at + c.at + sizeof(before) <= w.in.blocks_size) {
        memcpy(&before, p, sizeof(before));
        memcpy(p, &c.value, sizeof(before));
        seal_block(at);
        memcpy(p, &before, sizeof(before));
        l->block = pick(w.n);
        l->change[0] = c;
        if (pick(2)) {
            c.when += 1 + pick(2);
            c.value = before;
            l->change[1] = c;
        }
    }
}

/* The guest has other values, at other times, for a moving immediate. */
static void move_imm(void)
{
    static const uint32_t values[] = {
        0x03ffffff, 0x04000000, 0x7fffffff, 0x80000000, 0xfbffffff,
        0xfc000000, 0xfeffffff, 0xff000000,
    };
    FuzzLookup *l = &w.in.script.lookup[pick(FUZZ_LOOKUPS)];
    size_t at = w.at[pick(w.n)];
    TbCacheBlock b = header_at(at);
    size_t imms = at + sizeof(b) + b.guest_size + b.code_size + b.search_size;
    unsigned n = tb_cache_nb_imms(&b), when = pick(20);

    imms += n ? pick(n) * sizeof(TbCacheImm) : 0;
    if (n && imms + sizeof(TbCacheImm) <= w.in.blocks_size) {
        TbCacheImm imm;

        memcpy(&imm, w.blocks + imms, sizeof(imm));
        l->block = pick(w.n);
        for (int i = 0; i < FUZZ_CHANGES; i++) {
            l->change[i] = (FuzzChange) {
                .what = FUZZ_WORD,
                .when = when,
                .at = imm.guest & ~TB_CACHE_IMM_RELATIVE,
                .value = values[pick(G_N_ELEMENTS(values))],
            };
            when += 1 + pick(6);
        }
    }
}

static void change_something(void)
{
    unsigned kind = pick(16);

    if (kind < 5 || !w.n) {
        change_script();
    } else if (kind < 10) {
        change_block();
    } else if (kind < 12) {
        count_imms();
    } else if (kind < 13) {
        repeat_block();
    } else if (kind < 14) {
        cross_page();
    } else {
        change_header();
    }
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max,
                               unsigned seed)
{
    random_state = seed;
    if (!fuzz_parse(&w.in, data, size) || w.in.blocks_size > MAX_PART ||
        w.in.index_size > MAX_PART || pick(16) == 0) {
        return LLVMFuzzerMutate(data, size, max);
    }
    memcpy(w.blocks, w.in.blocks, w.in.blocks_size);
    memcpy(w.index, w.in.index, w.in.index_size);
    walk();
    do {
        change_something();
        walk();
    } while (pick(2));
    if (pick(8)) {
        for (unsigned i = 0; i < w.n; i++) {
            seal_block(w.at[i]);
        }
    }
    if (w.n && pick(4) == 0) {
        pick(2) ? set_trap() : move_imm();
    }
    if (pick(4)) {
        make_index();
    }
    if (pick(4) == 0) {
        pick(3) ? change_index() : change_header();
    }
    if (pick(16)) {
        seal_header(&w.in.header);
    }
    return store(data, max) ?: LLVMFuzzerMutate(data, size, max);
}

#pragma clang attribute pop
