/*
 * Fuzzing the translation cache: boot sets
 *
 * Copyright (c) 2026 The sysqcache authors
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * An input is such a file.  Whatever it says, its lines are opened as packs,
 * in order and as they are, and no more are mapped than there is room for.
 * Of the files that it names, those whose name begins with "p" exist.
 */

#include "qemu/osdep.h"
#include "accel/tcg/tb-cache-pack.c"
#include "fuzz.h"

static char list_path[] = "/proc/self/fd/2147483647";
static int list_file, pack_file;
static TbCachePackHeader header = {
    .magic = TB_CACHE_PACK_MAGIC,
    .version = TB_CACHE_VERSION,
    .header_size = TB_CACHE_HEADER_SIZE,
    .page_bits = 12,
    .file_size = TB_CACHE_HEADER_SIZE + 2 * sizeof(TbCacheIndexEntry),
    .slot_count = 1,
    .index_entries = 2,
    .index_offset = TB_CACHE_HEADER_SIZE,
    .blocks_offset = TB_CACHE_HEADER_SIZE,
};

/* The input, and where in it we are. */
static const uint8_t *text;
static size_t text_size, text_at;

static TbCachePackFile *packs[TB_CACHE_MAX_PACKS];
static unsigned n_packs;

/* The next line that is not empty; the text ends with the first zero. */
static const uint8_t *next_line(size_t *size)
{
    const uint8_t *line;

    while (text_at < text_size && text[text_at] == '\n') {
        text_at++;
    }
    line = text + text_at;
    while (text_at < text_size && text[text_at] && text[text_at] != '\n') {
        text_at++;
    }
    *size = text + text_at - line;
    return line;
}

int qemu_open(const char *name, int flags, Error **errp)
{
    require(flags & O_NOFOLLOW && flags & O_NONBLOCK);
    errno = ENOENT;
    return *name == 'p' ? dup(pack_file) : -1;
}

static void add(const char *path, void *opaque)
{
    TbCacheRejects *rejects = opaque;
    size_t size;
    const uint8_t *line = next_line(&size);
    bool room = n_packs < TB_CACHE_MAX_PACKS;
    TbCachePackFile *p;

    require(size > 0 && strlen(path) == size && !memcmp(path, line, size));
    p = tb_cache_pack_open(path, header.fingerprint, 12, rejects);
    require(!p->base == !(*path == 'p' && room));
    require(!strcmp(p->path, path));
    if (p->base) {
        packs[n_packs++] = p;
        return;
    }
    require(!strcmp(p->status, "unreadable"));
    g_free(p->path);
    g_free(p);
}

static void set_up(void)
{
    list_file = make_file("list");
    pack_file = make_file("pack");
    snprintf(list_path, sizeof(list_path), "/proc/self/fd/%d", list_file);
    header.checksum = XXH3_64bits(&header,
                                  offsetof(TbCachePackHeader, checksum));
    fill_file(pack_file, (uint8_t *)&header, sizeof(header));
    require(ftruncate(pack_file, header.file_size) == 0);
    atexit(tell);
}

static void close_packs(void)
{
    found += n_packs;
    while (n_packs > 0) {
        TbCachePackFile *p = packs[--n_packs];

        munmap((void *)p->base, p->size);
        g_free(p->windows);
        g_free(p->path);
        g_free(p);
    }
    n_guarded = 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    TbCacheRejects rejects = { 0 };

    if (!pack_file) {
        set_up();
    }
    fill_file(list_file, data, size);
    text = data;
    text_size = size;
    text_at = 0;
    tb_cache_boot_set_read(list_path, add, &rejects);
    next_line(&size);
    require(size == 0);
    close_packs();
    return 0;
}
