/*
 * Fuzzing the translation cache: lists of touched pages
 *
 * Copyright (c) 2026 The sysqcache authors
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * An input is such a file.  Whatever it says, the kernel is asked for pages
 * of RAM that it lists and for nothing else, and RAM itself is not accessed:
 * there is none.
 */

#include "qemu/osdep.h"
#include <sys/mman.h>

static int checked_madvise(void *at, size_t size, int advice);

#define madvise checked_madvise
#include "accel/tcg/tb-cache-touched.c"
#undef madvise
#include "accel/tcg/tb-cache-pack.c"
#include "fuzz.h"

#define RAM_PAGES 37

static int file;
static MemoryRegion ram = { .size = RAM_PAGES * PAGE };
static MachineState machine = { .ram = &ram };
MachineState *current_machine = &machine;

/* The input, and where in it we are. */
static const uint8_t *list;
static size_t list_size, list_at;

int qemu_open(const char *name, int flags, Error **errp)
{
    require(flags & O_NOFOLLOW && flags & O_NONBLOCK);
    return dup(file);
}

/* The next range that lies in RAM. */
static bool next_range(uint64_t *first, uint64_t *n, bool *written)
{
    while (list_at + 8 <= list_size) {
        const uint8_t *p = list + list_at;
        uint32_t pages = p[4] | p[5] << 8 | p[6] << 16 | (uint32_t)p[7] << 24;

        *first = p[0] | p[1] << 8 | p[2] << 16 | (uint32_t)p[3] << 24;
        *n = pages & 0x7fffffff;
        *written = pages >> 31;
        list_at += 8;
        if (*n && *first + *n <= RAM_PAGES) {
            return true;
        }
    }
    return false;
}

static int checked_madvise(void *at, size_t size, int advice)
{
    uint64_t first, n;
    bool written;

    if (size == 0) {
        return 0;
    }
    require(next_range(&first, &n, &written));
    require(at == (uint8_t *)ram.ram + first * PAGE);
    require(size == n * PAGE);
    require(advice == (written ? MADV_POPULATE_WRITE : MADV_POPULATE_READ));
    found++;
    return 0;
}

static void set_up(void)
{
    file = make_file("touched");
    ram.ram = mmap(NULL, ram.size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS,
                   -1, 0);
    require(ram.ram != MAP_FAILED);
    atexit(tell);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    TbCacheRejects rejects = { 0 };
    uint64_t first, n;
    bool good = size >= 8 && !memcmp(data, "sqctouch", 8), written;

    if (!ram.ram) {
        set_up();
    }
    fill_file(file, data, size);
    list = data;
    list_size = good ? size : 0;
    list_at = 8;
    tb_cache_touched_start("a list", &rejects);
    require(!next_range(&first, &n, &written));
    require(rejects.truncated == (size < 8));
    require(rejects.magic == (size >= 8 && !good));
    return 0;
}
