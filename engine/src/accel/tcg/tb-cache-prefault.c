/*
 * Persistent translation cache: touch memory before it is needed
 *
 * Copyright (c) 2026 The sysqcache authors
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Adopting is so quick that the first touch of the code buffer, a huge page
 * of zeros, is its largest part.  A thread of its own does that two or three
 * huge pages ahead of the vCPUs: where the host is a virtual machine that has
 * to ask for memory, one takes milliseconds, time for some thousand blocks.
 * Never more, for touching hundreds of MiB at the start costs a short run
 * more than it ever gets back, and many machines from one template each pay
 * for what they never use.  Where memory matters more than time, the vCPUs
 * take small pages, and only those that they use.
 */

#include "qemu/osdep.h"
#include "qemu/units.h"
#include <sys/mman.h>
#include "qemu/thread.h"
#include "tb-cache-internal.h"

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

#define SMALL   ((size_t)(4 * KiB))
#define STEP    ((size_t)(2 * MiB)) /* a huge page, where there are any */
#define AHEAD   (2 * STEP)

#define MAX_REQUESTS 16

static struct {
    QemuThread thread;
    QemuMutex lock;
    QemuCond work;
    bool started;
    bool small_pages;
    unsigned n;
    struct {
        uint8_t *start;
        size_t size;
    } requests[MAX_REQUESTS];
} worker;

static void *prefault_thread(void *opaque)
{
    qemu_mutex_lock(&worker.lock);
    for (;;) {
        uint8_t *start;
        size_t size;

        while (worker.n == 0) {
            qemu_cond_wait(&worker.work, &worker.lock);
        }
        worker.n--;
        start = worker.requests[worker.n].start;
        size = worker.requests[worker.n].size;
        qemu_mutex_unlock(&worker.lock);
        /* A hint: without it the vCPU takes the faults by itself. */
        madvise(start, size, MADV_POPULATE_WRITE);
        qemu_mutex_lock(&worker.lock);
    }
    return NULL;
}

void tb_cache_prefault_start(bool small_pages)
{
    worker.small_pages = small_pages;
    if (small_pages) {
        return;
    }
    qemu_mutex_init(&worker.lock);
    qemu_cond_init(&worker.work);
    qemu_thread_create(&worker.thread, "tb-cache", prefault_thread, NULL,
                       QEMU_THREAD_DETACHED);
    worker.started = true;
}

void tb_cache_prefault_slow(TbCacheThread *t, uint8_t *at, uint8_t *end)
{
    uint8_t *start = MAX(t->prefaulted, QEMU_ALIGN_PTR_DOWN(at, STEP));
    uint8_t *stop = MIN(QEMU_ALIGN_PTR_UP(at + AHEAD, STEP), end);

    if (worker.small_pages) {
        start = QEMU_ALIGN_PTR_UP(at, SMALL);
        if (start < end) {
            madvise(start, end - start, MADV_NOHUGEPAGE);
        }
        stop = end;
    }
    if (!worker.started || start >= stop) {
        t->prefaulted = MAX(t->prefaulted, stop);
        return;
    }
    /* What was never asked for before this block has been touched already. */
    start = MAX(start, QEMU_ALIGN_PTR_DOWN(at, SMALL));
    t->prefaulted = stop;

    qemu_mutex_lock(&worker.lock);
    if (worker.n < MAX_REQUESTS) {
        worker.requests[worker.n].start = start;
        worker.requests[worker.n].size = stop - start;
        worker.n++;
        qemu_cond_signal(&worker.work);
    }
    qemu_mutex_unlock(&worker.lock);
}
