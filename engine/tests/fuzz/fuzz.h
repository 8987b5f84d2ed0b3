/*
 * Fuzzing the translation cache: what all targets need
 *
 * Copyright (c) 2026 The sysqcache authors
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Included once, behind the code that is tried.
 */

#ifndef FUZZ_H
#define FUZZ_H

#include <sys/mman.h>

#define PAGE 4096

#define require(x)                                              \
    do {                                                        \
        if (!(x)) {                                             \
            fprintf(stderr, "%s:%d: not so: %s\n", __FILE__,    \
                    __LINE__, #x);                              \
            abort();                                            \
        }                                                       \
    } while (0)

/* How often what was tried had something to say: never is suspicious. */
static uint64_t found;

static void tell(void)
{
    fprintf(stderr, "stat::found: %" PRIu64 "\n", found);
}

/* A file without a name, as the engine wants it. */
static int make_file(const char *name)
{
    int fd = memfd_create(name, MFD_CLOEXEC);

    require(fd >= 0 && fchmod(fd, 0600) == 0);
    return fd;
}

static inline void fill_file(int fd, const uint8_t *data, size_t size)
{
    require(ftruncate(fd, 0) == 0);
    require(pwrite(fd, data, size, 0) == size);
}

/* Memory that was given back is reused soon: touching new pages is slow. */
const char *__asan_default_options(void)
{
    return "quarantine_size_mb=4";
}

#endif /* FUZZ_H */
