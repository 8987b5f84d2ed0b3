/*
 * What translation blocks were made of
 *
 * Copyright (c) 2026 The sysqcache authors
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef ACCEL_TCG_TB_AUDIT_H
#define ACCEL_TCG_TB_AUDIT_H

#include "exec/translation-block.h"

#ifdef CONFIG_USER_ONLY

static inline void tb_audit_begin(TranslationBlock *tb)
{
}

static inline void tb_audit_translated(TranslationBlock *tb)
{
}

#else

/* Whether all TBs remember what they were made of; set before the first. */
extern bool tb_audit_on;

/*
 * Whether @tb does.  With several vCPUs each does, because one may be storing
 * to the code that another one translates, see tb_settle().
 */
static inline bool tb_audit_wants(const TranslationBlock *tb)
{
    return unlikely(tb_audit_on || tb->cflags & CF_PARALLEL_BIT);
}

void tb_audit_begin_slow(TranslationBlock *tb);
void tb_audit_translated_slow(TranslationBlock *tb);

/**
 * tb_audit_begin: a block is about to be translated
 * @tb: the block, with its key filled in
 */
static inline void tb_audit_begin(TranslationBlock *tb)
{
    if (tb_audit_wants(tb)) {
        tb_audit_begin_slow(tb);
    }
}

/** tb_audit_translated: a block was translated, its size is known */
static inline void tb_audit_translated(TranslationBlock *tb)
{
    if (tb_audit_wants(tb)) {
        tb_audit_translated_slow(tb);
    }
}

/**
 * tb_audit_note: remember what @tb was made of
 * @tb: the block, for CF_PCREL
 * @code: its guest code, of which tb->size bytes are there
 */
void tb_audit_note(TranslationBlock *tb, const uint8_t *code);

/** tb_audit_known: whether @tb remembers what it was made of */
static inline bool tb_audit_known(const TranslationBlock *tb)
{
    return tb->cflags & CF_PCREL && tb->guest_hash;
}

/**
 * tb_audit_stale: whether something else is in memory now
 * @tb: a block that remembers, and whose pages are locked if vCPUs run
 */
bool tb_audit_stale(const TranslationBlock *tb);

#endif /* !CONFIG_USER_ONLY */

#endif /* ACCEL_TCG_TB_AUDIT_H */
