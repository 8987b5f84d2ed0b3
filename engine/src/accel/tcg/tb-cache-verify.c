/*
 * Persistent translation cache: blocks compared with their translation
 *
 * Copyright (c) 2026 The sysqcache authors
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "exec/target_page.h"
#include "exec/translation-block.h"
#include "tcg/tcg.h"
#include "tb-internal.h"
#include "tb-cache-internal.h"

static void G_GNUC_PRINTF(4, 5)
mismatch(TbCacheThread *t, TbCacheMismatch kind, const TbCacheBlock *b,
         const char *fmt, ...)
{
    g_autoptr(GString) s = g_string_new(NULL);
    va_list ap;

    tb_cache_count(&t->mismatches, 1);
    qemu_mutex_lock(&tb_cache->lock);
    if (tb_cache->mismatches[kind] < TB_CACHE_MAX_LOG) {
        tb_cache->mismatches[kind]++;
        g_string_printf(s, "page offset 0x%x, flags 0x%x, cflags 0x%x, cs_base "
                        "0x%" PRIx64 ": ", b->page_offset, b->flags, b->cflags,
                        b->cs_base);
        va_start(ap, fmt);
        g_string_append_vprintf(s, fmt, ap);
        va_end(ap);
        g_string_append(s, "; guest");
        for (int i = 0; i < MIN(b->guest_size, 64); i++) {
            g_string_append_printf(s, " %02x", b->data[i]);
        }
        g_ptr_array_add(tb_cache->mismatch_log, g_strdup(s->str));
    }
    qemu_mutex_unlock(&tb_cache->lock);
}

/*
 * A block that ends shortly before a page does may end there because the
 * next instruction crossed the page when it was recorded.
 */
static bool ends_at_crossing(const TbCacheBlock *b, const TranslationBlock *tb)
{
    unsigned end = b->page_offset + b->guest_size;

    return tb->size > b->guest_size && b->icount < tb->icount
        && end <= TARGET_PAGE_SIZE && end > TARGET_PAGE_SIZE - 16;
}

/*
 * One of both ends where it does because the translator had no room for
 * more: it may have got further with other immediates, or with less of its
 * code buffer in use.  The shorter one is right all the same.
 */
static bool ends_at_limit(const TbCacheBlock *b, const TranslationBlock *tb)
{
    return (b->block_flags & TB_CACHE_BLOCK_LIMITED &&
            b->icount < tb->icount) ||
           (tcg_ctx->tb_limited && tb->icount < b->icount);
}

bool tb_cache_still_fits(const TbCacheThread *t)
{
    const TbCacheBlock *b = t->hit;
    size_t known = MIN(tcg_ctx->guest_bytes_len, b->guest_size);
    uint32_t values[TB_CACHE_MAX_IMMS];

    if (tb_cache_nb_imms(b)) {
        return known < b->guest_size ||
               tb_cache_same_guest(b, b->data, t->guest, values);
    }
    return !memcmp(b->data, t->guest, known);
}

static bool same_imms(const TbCacheThread *t, const TbCacheBlock *b)
{
    const uint8_t *imms = b->data + b->guest_size + b->code_size
                          + b->search_size;

    return tb_cache_nb_imms(b) == t->n_imms
        && !memcmp(imms, t->imms, t->n_imms * sizeof(t->imms[0]));
}

/* Code and search data of both, with the immediates that the guest has. */
static void compare_code(TbCacheThread *t, const TranslationBlock *tb,
                         const TbCacheBlock *b)
{
    const uint8_t *code = tcg_splitwx_to_rw(tb->tc.ptr);
    const uint8_t *cached = b->data + b->guest_size;
    g_autofree uint8_t *fresh = g_memdup2(code, b->code_size + b->search_size);
    size_t i = 0;

    for (unsigned n = 0; n < t->n_imms; n++) {
        TbCacheImm imm = t->imms[n];

        /* Each has what its own guest code has there. */
        if (memcmp(fresh + imm.host, t->guest + tb_cache_imm_at(imm), 4) ||
            memcmp(cached + imm.host, b->data + tb_cache_imm_at(imm), 4)) {
            mismatch(t, TB_CACHE_MISMATCH_IMMS, b, "a moving immediate is not "
                     "at byte %u of the code", imm.host);
            return;
        }
        memcpy(fresh + imm.host, cached + imm.host, 4);
    }
    if (!memcmp(fresh, cached, b->code_size + b->search_size)) {
        return;
    }
    while (fresh[i] == cached[i]) {
        i++;
    }
    if (i < b->code_size) {
        mismatch(t, TB_CACHE_MISMATCH_CODE, b, "code differs at byte %zu of %u",
                 i, b->code_size);
    } else {
        mismatch(t, TB_CACHE_MISMATCH_SEARCH, b, "search data differs at byte "
                 "%zu of %u", i - b->code_size, b->search_size);
    }
}

void tb_cache_verify(TbCacheThread *t, const TranslationBlock *tb,
                     int search_size)
{
    const TbCacheBlock *b = t->hit;

    tb_cache_count(&t->verified, 1);
    if (tb->size != b->guest_size && ends_at_crossing(b, tb)) {
        tb_cache_count(&t->verify_prefix, 1);
    } else if (tb->size != b->guest_size && ends_at_limit(b, tb)) {
        tb_cache_count(&t->verify_limits, 1);
    } else if (tb->size != b->guest_size || tb->icount != b->icount) {
        mismatch(t, TB_CACHE_MISMATCH_GUEST, b, "%u guest bytes in %u insns, "
                 "cached %u in %u", tb->size, tb->icount, b->guest_size,
                 b->icount);
    } else if (tb->tc.size != b->code_size || search_size != b->search_size) {
        mismatch(t, TB_CACHE_MISMATCH_SIZE, b, "%zu bytes of code and %d of "
                 "search data, cached %u and %u", tb->tc.size, search_size,
                 b->code_size, b->search_size);
    } else if (memcmp(tb->jmp_reset_offset, b->jmp_reset_offset, 4) ||
               memcmp(tb->jmp_insn_offset, b->jmp_insn_offset, 4)) {
        mismatch(t, TB_CACHE_MISMATCH_JUMPS, b, "other jumps");
    } else if (tb_cache_any_context(b) && tcg_asked_parallel) {
        mismatch(t, TB_CACHE_MISMATCH_CONTEXT, b,
                 "depends on the number of vCPUs, cached does not");
    } else if (!same_imms(t, b)) {
        mismatch(t, TB_CACHE_MISMATCH_IMMS, b, "%u moving immediates, cached "
                 "%u, or others", t->n_imms, tb_cache_nb_imms(b));
    } else {
        compare_code(t, tb, b);
    }
}
