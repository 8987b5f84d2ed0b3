/*
 * qom/object.h, as far as the fuzzed files need it
 *
 * Copyright (c) 2026 The sysqcache authors
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef FUZZ_QOM_OBJECT_H
#define FUZZ_QOM_OBJECT_H

typedef struct Object {
    uint32_t ref;
} Object;

#define OBJECT_DECLARE_SIMPLE_TYPE(type, name) typedef struct type type;

#endif
