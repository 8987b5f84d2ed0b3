/*
 * qemu/thread.h, as far as the fuzzed files need it
 *
 * Copyright (c) 2026 The sysqcache authors
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef FUZZ_QEMU_THREAD_H
#define FUZZ_QEMU_THREAD_H

#define QEMU_THREAD_DETACHED 1

typedef struct QemuThread QemuThread;
struct QemuThread {
    bool created;
};

typedef struct QemuMutex {
    bool locked;
} QemuMutex;

/* What a thread would do is done at once. */
static inline void qemu_thread_create(QemuThread *thread, const char *name,
                                      void *(*start)(void *), void *arg,
                                      int mode)
{
    thread->created = true;
    start(arg);
}

#endif
