/*
 * qemu/bswap.h, as far as the fuzzed files need it
 *
 * Copyright (c) 2026 The sysqcache authors
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef FUZZ_QEMU_BSWAP_H
#define FUZZ_QEMU_BSWAP_H

#define le32_to_cpu(x) GUINT32_FROM_LE(x)
#define le64_to_cpu(x) GUINT64_FROM_LE(x)

#endif
