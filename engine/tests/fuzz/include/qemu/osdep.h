/*
 * qemu/osdep.h, as far as the fuzzed files need it
 *
 * Copyright (c) 2026 The sysqcache authors
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef FUZZ_QEMU_OSDEP_H
#define FUZZ_QEMU_OSDEP_H

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>
#include <glib.h>

#define likely(x)               __builtin_expect(!!(x), 1)
#define unlikely(x)             __builtin_expect(!!(x), 0)
#define DIV_ROUND_UP(n, d)      (((n) + (d) - 1) / (d))
#define ROUND_DOWN(n, d)        ((n) / (d) * (d))
#define ROUND_UP(n, d)          ROUND_DOWN((n) + (d) - 1, d)
#define RETRY_ON_EINTR(x)       TEMP_FAILURE_RETRY(x)
#define QEMU_BUILD_BUG_ON(x)    _Static_assert(!(x), #x)

typedef struct Error Error;
typedef struct CPUState CPUState;

/* What a path names is the harness's choice. */
int qemu_open(const char *name, int flags, Error **errp);

#endif
