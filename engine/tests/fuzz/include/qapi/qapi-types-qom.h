/*
 * qapi/qapi-types-qom.h, as far as the fuzzed files need it
 *
 * Copyright (c) 2026 The sysqcache authors
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef FUZZ_QAPI_QAPI_TYPES_QOM_H
#define FUZZ_QAPI_QAPI_TYPES_QOM_H

typedef enum TbCacheMode {
    TB_CACHE_MODE_ON,
} TbCacheMode;

#endif
