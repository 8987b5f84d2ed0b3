/*
 * Fuzzing the translation cache: packs, and what is looked up in them
 *
 * Copyright (c) 2026 The sysqcache authors
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Whatever a pack holds, and whatever becomes of it and of the guest's code
 * in the meantime: a block that is found is what docs/formats.md says, and
 * what was asked for.  That is written down here a second time, without the
 * functions that are tried.
 */

#include "qemu/osdep.h"
#include <setjmp.h>
#include <sys/mman.h>
#include <xxhash.h>

static void *watched_memcpy(void *to, const void *from, size_t n);
static int watched_memcmp(const void *a, const void *b, size_t n);
static void *fenced_mmap(void *at, size_t size, int prot, int flags, int fd,
                         off_t offset);

#define memcpy watched_memcpy
#define memcmp watched_memcmp
#include "accel/tcg/tb-cache-find.c"
#include "accel/tcg/tb-cache-directory.c"
#undef memcpy
#undef memcmp
#define mmap fenced_mmap
#include "accel/tcg/tb-cache-pack.c"
#undef mmap
#include "pack-input.h"

/* What this file covers is of no interest, and would cost a third. */
#pragma clang attribute push(__attribute__((no_sanitize("coverage"))), \
                             apply_to = function)

#include "fuzz.h"

#define MAX_PACKS 2

/* The file, and how others see it. */
static int file;
static uint8_t *content;
static size_t file_size;
static TbCachePackHeader header;
static bool file_changed;

/* The guest's code: @host has @avail bytes, the rest lies on page 2. */
static uint8_t *page1, *page2;
static uint8_t *host;
static size_t avail;

/* What was there before it changed during the lookup. */
static struct {
    uint8_t *at;
    uint8_t byte;
} gone[FUZZ_CHANGES * 4];
static unsigned n_gone;

/* The lookup in progress, if any. */
static const FuzzLookup *now;
static unsigned reads;
static unsigned page2_calls;
static size_t where;            /* the block that is wanted, in the file */
static TbCacheKey key;
static jmp_buf left;

static uint8_t *guest_at(size_t i)
{
    return i < avail ? host + i : page2 + (i - avail);
}

static size_t guest_room(void)
{
    return now->how & FUZZ_EXACTLY ? avail : avail + PAGE;
}

static size_t wanted_block(const FuzzLookup *l, const TbCacheFind *f)
{
    size_t seen = 0;

    if (l->how & FUZZ_BEHIND) {
        return (size_t)f->recent[0].behind * TB_CACHE_ALIGN;
    }
    for (size_t i = 0; i < MIN(header.index_entries, 256); i++) {
        size_t at = header.index_offset + i * sizeof(TbCacheIndexEntry);
        TbCacheIndexEntry e;

        if (at > file_size || file_size - at < sizeof(e)) {
            break;
        }
        memcpy(&e, content + at, sizeof(e));
        if (e.position && seen++ == l->block) {
            return (size_t)e.position * TB_CACHE_ALIGN;
        }
    }
    return SIZE_MAX;
}

static void change_guest(const FuzzChange *c, size_t size)
{
    for (size_t i = 0; i < size; i++) {
        uint8_t *p = guest_at((c->at + i) % guest_room());

        if (c->when != FUZZ_BEFORE && c->when != FUZZ_AT_PAGE2) {
            gone[n_gone].at = p;
            gone[n_gone++].byte = *p;
        }
        *p = c->value >> (8 * i);
    }
}

static void set_size(size_t size)
{
    if (size != file_size) {
        require(ftruncate(file, size) == 0);
        file_size = size;
    }
}

static void change_file(size_t at, uint32_t value)
{
    if (at <= file_size && file_size - at >= sizeof(value)) {
        memcpy(content + at, &value, sizeof(value));
        file_changed = true;
    }
}

static void change_key(const FuzzChange *c)
{
    switch (c->at % 4) {
    case 0:
        key.cs_base ^= c->value;
        break;
    case 1:
        key.flags ^= c->value;
        break;
    default:
        key.cflags ^= c->value;
        break;
    }
}

static void change(const FuzzChange *c)
{
    switch (c->what) {
    case FUZZ_KEY:
        if (c->when == FUZZ_BEFORE) {
            change_key(c);
        }
        break;
    case FUZZ_BYTE:
    case FUZZ_WORD:
        change_guest(c, c->what == FUZZ_WORD ? 4 : 1);
        break;
    case FUZZ_BLOCK:
        if (where < file_size) {
            change_file(where + c->at, c->value);
        }
        break;
    case FUZZ_INDEX:
        change_file(header.index_offset + c->at, c->value);
        break;
    case FUZZ_TRUNCATE:
        if (c->at * TB_CACHE_ALIGN < file_size) {
            set_size(c->at * TB_CACHE_ALIGN);
            file_changed = true;
        }
        break;
    }
}

static void changes_at(unsigned when)
{
    for (int i = 0; i < FUZZ_CHANGES; i++) {
        if (now->change[i].when == when) {
            change(&now->change[i]);
        }
    }
}

static void next_read(void)
{
    if (now && ++reads < FUZZ_AT_PAGE2) {
        changes_at(reads);
    }
}

/* Others may write before it is read, and in the middle. */
static void *watched_memcpy(void *to, const void *from, size_t n)
{
    size_t half = n >= 32 ? n / 2 : 0;

    next_read();
    if (half) {
        memcpy(to, from, half);
        next_read();
    }
    memcpy((uint8_t *)to + half, (const uint8_t *)from + half, n - half);
    return to;
}

static int watched_memcmp(const void *a, const void *b, size_t n)
{
    next_read();
    return memcmp(a, b, n);
}

static uint8_t *nothing(uint8_t *at, size_t size)
{
    uint8_t *p = mmap(at, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS |
                      (at ? MAP_FIXED : 0), -1, 0);

    require(p != MAP_FAILED);
    return p;
}

/* Nothing lies beside a mapping. */
static void *fenced_mmap(void *at, size_t size, int prot, int flags, int fd,
                         off_t offset)
{
    static uint8_t *room[MAX_PACKS];

    if (!at) {
        if (!room[n_guarded]) {
            room[n_guarded] = nothing(NULL, FUZZ_MAX_FILE + 2 * PAGE);
        }
        at = room[n_guarded] + PAGE;
    }
    return mmap(at, size, prot, flags | MAP_FIXED, fd, offset);
}

int qemu_open(const char *name, int flags, Error **errp)
{
    require(flags & O_NOFOLLOW && flags & O_NONBLOCK);
    return dup(file);
}

static bool right_checksum(const TbCacheBlock *b, size_t size)
{
    return XXH3_64bits((const uint8_t *)b + 8, size - 8) == b->checksum;
}

static const uint8_t *fetch_page2(TbCacheFind *f)
{
    const TbCacheBlock *b = f->found;
    size_t imms = (b->block_flags >> 8 & 0xff) * 4;

    require(now && !(now->how & FUZZ_EXACTLY));
    require(page2_calls++ == 0);
    require(right_checksum(b, sizeof(*b) + b->guest_size + b->code_size
                              + b->search_size + imms));
    changes_at(FUZZ_AT_PAGE2);
    if (now->how & FUZZ_LEAVE) {
        longjmp(left, 1);
    }
    return now->how & FUZZ_NO_PAGE2 ? NULL : page2;
}

/* Whether the guest has, or had, this @byte. */
static bool guest_has(size_t i, uint8_t byte)
{
    const uint8_t *p = guest_at(i);
    bool has = *p == byte;

    for (unsigned j = 0; j < n_gone; j++) {
        has |= gone[j].at == p && gone[j].byte == byte;
    }
    return has;
}

static void check_key(const TbCacheBlock *b)
{
    const uint32_t parallel = 0x8000;
    bool any = b->block_flags & 4;

    require(b->cs_base == key.cs_base);
    require(b->flags == key.flags);
    require(b->page_offset == key.page_offset);
    require(!any || !(b->cflags & parallel));
    if (now->how & FUZZ_EXACTLY) {
        require(b->cflags == key.cflags);
        require(any || !key.any_context);
    } else {
        require(b->cflags == key.cflags ||
                (any && (b->cflags | parallel) == key.cflags));
    }
}

static void check_jumps(const TbCacheBlock *b)
{
    for (int i = 0; i < 2; i++) {
        if (b->jmp_reset_offset[i] != 0xffff) {
            require(b->jmp_reset_offset[i] <= b->code_size);
            require(b->jmp_insn_offset[i] % 4 == 0);
            require(b->jmp_insn_offset[i] + 4u <= b->code_size);
        }
    }
}

/* Check the immediates, and mark their bytes in @moving. */
static void check_imms(const TbCacheFind *f, const TbCacheBlock *b,
                       unsigned n, uint8_t *moving)
{
    const uint8_t *p = b->data + b->guest_size + b->code_size + b->search_size;
    int before = -4;

    require(n <= 48);
    require(n == 0 || !(b->block_flags & 1));
    require(n > 0 || !(b->block_flags & 2));
    for (unsigned i = 0; i < n; i++) {
        unsigned at = p[4 * i] | p[4 * i + 1] << 8;
        unsigned code = p[4 * i + 2] | p[4 * i + 3] << 8;
        uint32_t value = f->imms[i];
        bool relative = at & 0x8000;

        at &= 0x7fff;
        require(at == before || (int)at >= before + 4);
        require(at + 4 <= b->guest_size);
        require(code + 4 <= b->code_size && code != 0xffff);
        require(relative ? value >= 0x04000000 && value < 0xfc000000
                         : value >= 0x80000000 && value < 0xff000000);
        for (int j = 0; j < 4; j++) {
            require(guest_has(at + j, value >> (8 * j)));
            moving[at + j] = true;
        }
        require(at != before || value == f->imms[i - 1]);
        before = at;
    }
}

static void check_found(const TbCacheFind *f, const TbCacheBlock *b)
{
    uint8_t moving[PAGE] = { 0 };
    unsigned n = b->block_flags >> 8 & 0xff;
    size_t size = sizeof(*b) + b->guest_size + (size_t)b->code_size
                  + b->search_size + n * 4;
    size_t at = (size_t)f->position * 16;

    require(b == f->found);
    require(size <= 96 * KiB);
    require(right_checksum(b, size));
    check_key(b);
    require(!(b->block_flags & ~0xff0fu));
    require(b->guest_size >= 1 && b->guest_size <= PAGE);
    require(b->icount >= 1 && b->icount <= 512);
    require(b->code_size && b->search_size);
    require((b->block_flags & 1) == (b->page_offset + b->guest_size > PAGE));
    check_jumps(b);
    check_imms(f, b, n, moving);
    require(b->guest_size <= guest_room());
    require(b->guest_size <= avail ||
            (page2_calls == 1 && !(now->how & FUZZ_NO_PAGE2)));
    for (size_t i = 0; i < b->guest_size; i++) {
        require(moving[i] || guest_has(i, b->data[i]));
    }
    require(at >= PAGE && at + size <= PAGE + header.blocks_size);
    require(file_changed || !memcmp(content + at, b, size));
    found++;
}

/* The guest has the code of the block at @where, or what there is of it. */
static void set_guest(const FuzzLookup *l)
{
    TbCacheBlock b = { 0 };
    size_t size = 0;

    if (where <= file_size && file_size - where >= sizeof(b)) {
        memcpy(&b, content + where, sizeof(b));
        size = MIN(b.guest_size, file_size - where - sizeof(b));
    }
    key = (TbCacheKey) {
        .cs_base = b.cs_base,
        .flags = b.flags,
        .cflags = b.cflags ^ (l->how & FUZZ_PARALLEL ? 0x8000 : 0),
        .page_offset = b.page_offset % PAGE,
        .any_context = l->how & FUZZ_EXACTLY && l->how & FUZZ_ANY,
        .one_page = l->how & FUZZ_EXACTLY,
        .page_bits = 12,
    };
    memset(page1, 0xcc, PAGE);
    memset(page2, 0xcc, PAGE);
    if (key.one_page) {
        avail = CLAMP(b.guest_size, 1, PAGE);
        host = g_malloc0(avail);
    } else {
        avail = PAGE - key.page_offset;
        host = page1 + key.page_offset;
    }
    size = MIN(size, guest_room());
    if (size) {
        const uint8_t *code = content + where + sizeof(b);

        memcpy(host, code, MIN(size, avail));
        memcpy(page2, code + MIN(size, avail), size - MIN(size, avail));
    }
}

static void look_up(TbCacheFind *f, TbCachePackFile **packs, unsigned n,
                    const FuzzLookup *l)
{
    const TbCacheBlock *b = NULL;

    now = l;
    where = wanted_block(l, f);
    set_guest(l);
    n_gone = 0;
    changes_at(FUZZ_BEFORE);
    key.avail = avail;
    key.host = host;
    reads = 0;
    page2_calls = 0;
    f->miss = NULL;
    if (!setjmp(left)) {
        b = l->how & FUZZ_EXACTLY ? tb_cache_find_exactly(f, packs, n, &key)
                                  : tb_cache_find(f, packs, n, &key);
        if (b) {
            check_found(f, b);
        } else if (!(l->how & FUZZ_EXACTLY)) {
            require((uint8_t *)f->miss >= (uint8_t *)&f->misses &&
                    (uint8_t *)f->miss < (uint8_t *)(&f->misses + 1));
        }
    }
    now = NULL;
    if (f->cold) {
        tb_cache_find_populate(f);
    }
    if (l->how & FUZZ_EXACTLY) {
        g_free(host);
    }
}

/* Only blocks and the index are read. */
static void fence(const TbCachePackFile *p)
{
    size_t index = header.index_offset;
    size_t end = index + header.index_entries * sizeof(TbCacheIndexEntry);

    ASAN_POISON_MEMORY_REGION(p->base, PAGE);
    ASAN_POISON_MEMORY_REGION(p->base + PAGE + header.blocks_size,
                              index - PAGE - header.blocks_size);
    ASAN_POISON_MEMORY_REGION(p->base + end, ROUND_UP(p->size, PAGE) - end);
}

/* What a header that is believed has to say. */
static void check_header_by_the_book(const uint8_t *fingerprint)
{
    const TbCachePackHeader *h = &header;

    require(!memcmp(h->magic, "SYSQPACK", 8));
    require(h->version == 2 && h->header_size == PAGE && h->page_bits == 12);
    require(h->checksum == XXH3_64bits(h, PAGE - 8));
    require(!memcmp(h->fingerprint, fingerprint, sizeof(h->fingerprint)));
    require(h->file_size <= file_size && h->blocks_offset == PAGE);
    require(h->index_offset % PAGE == 0 && h->index_offset <= file_size);
    require(h->blocks_size <= h->index_offset - PAGE);
    require(h->index_entries <= (file_size - h->index_offset) / 16);
    require(h->slot_count > 0 && h->slot_count < h->index_entries);
}

static TbCachePackFile *open_pack(const FuzzInput *in, unsigned number)
{
    TbCacheRejects rejects = { 0 };
    const uint64_t *counter = (const uint64_t *)&rejects;
    uint8_t fingerprint[TB_CACHE_FINGERPRINT_SIZE];
    uint64_t refused = 0;
    TbCachePackFile *p;

    memcpy(fingerprint, header.fingerprint, sizeof(fingerprint));
    fingerprint[31] ^= in->script.foreign;
    p = tb_cache_pack_open("a pack", fingerprint, 12, &rejects);
    for (size_t i = 0; i < sizeof(rejects) / sizeof(*counter); i++) {
        refused += counter[i];
    }
    require(refused == !p->base);
    require(!strcmp(p->status, "mapped") == !refused);
    if (p->base) {
        check_header_by_the_book(fingerprint);
        require(p->size == file_size);
        p->number = number;
        fence(p);
    }
    return p;
}

static void close_pack(TbCachePackFile *p)
{
    if (p->base) {
        uint8_t *base = (uint8_t *)p->base;
        size_t size = ROUND_UP(p->size, PAGE);

        ASAN_UNPOISON_MEMORY_REGION(base, size);
        nothing(base, size);
    }
    g_free(p->windows);
    g_free(p->path);
    g_free(p);
}

static void put_part(size_t at, const void *from, size_t size)
{
    if (at < file_size) {
        memcpy(content + at, from, MIN(size, file_size - at));
    }
}

/* Write the file that @in stands for. */
static void write_file(const FuzzInput *in)
{
    size_t size = MIN(in->header.file_size, (uint64_t)FUZZ_MAX_FILE);

    set_size(CLAMP((int64_t)size + in->script.longer, 0, FUZZ_MAX_FILE));
    header = in->header;
    memset(content, 0, file_size);
    put_part(PAGE, in->blocks, in->blocks_size);
    put_part(header.index_offset, in->index, in->index_size);
    put_part(0, &header, sizeof(header));
    file_changed = false;
}

static void set_up(TbCacheFind *f)
{
    file = make_file("pack");
    content = mmap(NULL, FUZZ_MAX_FILE, PROT_READ | PROT_WRITE, MAP_SHARED,
                   file, 0);
    require(content != MAP_FAILED);
    page1 = g_malloc(PAGE);
    page2 = g_malloc(PAGE);
    tb_cache_find_init(f);
    tb_cache_pack_guard_init();
    atexit(tell);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static TbCacheFind f;
    g_autofree TbCacheDirectory *directory = NULL;
    TbCachePackFile *packs[MAX_PACKS];
    FuzzInput in;
    unsigned n = 0;

    if (!f.found) {
        set_up(&f);
    }
    if (!fuzz_parse(&in, data, size)) {
        return -1;
    }
    f = (TbCacheFind) { .found = f.found, .get_page2 = fetch_page2 };
    write_file(&in);
    while (n < (in.script.packs & ~FUZZ_DIRECTORY) % (MAX_PACKS + 1)) {
        packs[n] = open_pack(&in, n);
        if (!packs[n]->base) {
            close_pack(packs[n]);
            break;
        }
        n++;
    }
    if (in.script.packs & FUZZ_DIRECTORY) {
        directory = tb_cache_directory_new(packs, n, in.header.seed);
        f.directory = directory;
    }
    for (int i = 0; i < FUZZ_LOOKUPS; i++) {
        look_up(&f, packs, n, &in.script.lookup[i]);
    }
    while (n > 0) {
        close_pack(packs[--n]);
    }
    n_guarded = 0;
    return 0;
}

#pragma clang attribute pop
