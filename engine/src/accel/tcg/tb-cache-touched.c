/*
 * Persistent translation cache: guest memory that is about to be touched
 *
 * Copyright (c) 2026 The sysqcache authors
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * A machine whose memory is a private mapping of a file takes a fault for
 * every page that it reads first, and copies every page that it writes
 * first.  Once its code need not be translated any more, that is much of
 * what is left of a slow beginning.  What was touched after the last
 * resume is likely to be touched again: a thread does it ahead of the
 * vCPUs.  The contents of memory stay as they are, whatever the list says.
 */

#include "qemu/osdep.h"
#include "qemu/bswap.h"
#include "qemu/error-report.h"
#include "qemu/thread.h"
#include "exec/memory.h"
#include "hw/boards.h"
#include <sys/mman.h>
#include "tb-cache-internal.h"

#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22
#endif
#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

#define MAX_BYTES (64 * MiB)

typedef struct Touching {
    uint8_t *ram;
    uint64_t size;              /* bytes of RAM */
    TbCacheTouched *list;
    size_t n;
} Touching;

static void touch(const Touching *t, const TbCacheTouched *e)
{
    uint64_t start = (uint64_t)le32_to_cpu(e->page) << TB_CACHE_TOUCHED_BITS;
    uint32_t pages = le32_to_cpu(e->pages);
    uint64_t size = (uint64_t)(pages & ~TB_CACHE_TOUCHED_WRITTEN)
                    << TB_CACHE_TOUCHED_BITS;

    if (size <= t->size && start <= t->size - size) {
        madvise(t->ram + start, size, pages & TB_CACHE_TOUCHED_WRITTEN
                                      ? MADV_POPULATE_WRITE
                                      : MADV_POPULATE_READ);
    }
}

static void *touch_thread(void *opaque)
{
    Touching *t = opaque;

    for (size_t i = 0; i < t->n; i++) {
        touch(t, &t->list[i]);
    }
    g_free(t->list);
    g_free(t);
    return NULL;
}

/* Returns the list, or NULL: whoever could write it could eat our memory. */
static TbCacheTouched *read_list(int fd, size_t *n, TbCacheRejects *rejects,
                                 const char **why)
{
    TbCacheTouched *list;
    size_t size;

    *why = tb_cache_check_file(fd, sizeof(*list), &size, rejects);
    if (*why) {
        return NULL;
    }
    size = ROUND_DOWN(MIN(size, MAX_BYTES), sizeof(*list));
    list = g_malloc(size);
    if (pread(fd, list, size, 0) != size) {
        rejects->unreadable++;
        *why = "unreadable";
    } else if (memcmp(list, TB_CACHE_TOUCHED_MAGIC, sizeof(*list))) {
        rejects->magic++;
        *why = "magic";
    }
    if (*why) {
        g_free(list);
        return NULL;
    }
    *n = size / sizeof(*list);
    return list;
}

void tb_cache_touched_start(const char *path, TbCacheRejects *rejects)
{
    MemoryRegion *ram = current_machine->ram;
    int fd = qemu_open(path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK, NULL);
    Touching t = { 0 };
    const char *why;
    QemuThread thread;

    t.list = read_list(fd, &t.n, rejects, &why);
    if (fd >= 0) {
        close(fd);
    }
    if (!t.list) {
        warn_report("tb-cache: pages touched before %s refused: %s", path, why);
        return;
    }
    /* With NUMA it may have several parts, and no memory of its own. */
    if (!ram || !memory_region_is_ram(ram)) {
        g_free(t.list);
        return;
    }
    /* The head of the file is as large as an entry; it touches nothing. */
    t.list[0].pages = 0;
    t.ram = memory_region_get_ram_ptr(ram);
    t.size = memory_region_size(ram);
    qemu_thread_create(&thread, "tb-touch", touch_thread,
                       g_memdup2(&t, sizeof(t)), QEMU_THREAD_DETACHED);
}
