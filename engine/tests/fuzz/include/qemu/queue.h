/*
 * qemu/queue.h, as far as the fuzzed files need it
 *
 * Copyright (c) 2026 The sysqcache authors
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef FUZZ_QEMU_QUEUE_H
#define FUZZ_QEMU_QUEUE_H

#define QSLIST_ENTRY(type) struct { struct type *sle_next; }

#endif
