/*
 * qemu/error-report.h, as far as the fuzzed files need it
 *
 * Copyright (c) 2026 The sysqcache authors
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef FUZZ_QEMU_ERROR_REPORT_H
#define FUZZ_QEMU_ERROR_REPORT_H

static inline void G_GNUC_PRINTF(1, 2) warn_report(const char *fmt, ...)
{
}

#endif
