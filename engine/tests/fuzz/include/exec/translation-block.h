/*
 * exec/translation-block.h, as far as the fuzzed files need it
 *
 * Copyright (c) 2026 The sysqcache authors
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef FUZZ_EXEC_TRANSLATION_BLOCK_H
#define FUZZ_EXEC_TRANSLATION_BLOCK_H

typedef uint64_t vaddr;
typedef uint64_t ram_addr_t;

typedef struct TranslationBlock {
    uint64_t page_addr[2];
} TranslationBlock;

typedef struct Notifier {
    void (*notify)(struct Notifier *notifier, void *data);
} Notifier;

typedef struct VMChangeStateEntry VMChangeStateEntry;

#endif
