/*
 * Persistent translation cache: look up, adopt, verify, record
 *
 * Copyright (c) 2026 The sysqcache authors
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Everything here runs in vCPU threads, inside tb_gen_code().
 */

#define XXH_INLINE_ALL
#include "qemu/osdep.h"
#include <xxhash.h>
#include "qemu/units.h"
#include "qemu/bswap.h"
#include "qemu/cacheflush.h"
#include "qemu/log.h"
#include "qemu/plugin.h"
#include "qemu/timer.h"
#include "exec/cpu-all.h"
#include "exec/cputlb.h"
#include "exec/exec-all.h"
#include "tcg/tcg.h"
#include "tb-internal.h"
#include "tb-cache-internal.h"
#include "trace.h"

bool tb_cache_on;
TbCache *tb_cache;

static __thread TbCacheThread *thread_self;
static QSLIST_HEAD(, TbCacheThread) threads = QSLIST_HEAD_INITIALIZER(threads);

/* The parts of a block's key that the caller of tb_gen_code gives. */
typedef struct TbCacheKey {
    uint64_t cs_base;
    uint32_t flags;
    uint32_t cflags;
    uint16_t page_offset;
    bool any_context;           /* only what serves any number of vCPUs */
    bool one_page;              /* @host is all there is to compare with */
    size_t avail;               /* bytes up to the end of the first page */
    const uint8_t *host;
} TbCacheKey;

static TbCacheThread *thread_new(void)
{
    TbCacheThread *t = g_new0(TbCacheThread, 1);

    t->found = g_malloc(TB_CACHE_MAX_BLOCK);
    qemu_mutex_init(&t->lock);
    tb_cache_pack_guard_thread();
    QSLIST_INSERT_HEAD_ATOMIC(&threads, t, next);
    thread_self = t;
    return t;
}

void tb_cache_for_each_thread(TbCacheThreadFn *fn, void *opaque)
{
    TbCacheThread *t;

    /* Threads are only ever added, at the head. */
    for (t = qatomic_read(&threads.slh_first); t; t = t->next.sle_next) {
        fn(t, opaque);
    }
}

TbCacheThread *tb_cache_begin_slow(CPUState *cpu)
{
    TbCacheThread *t = thread_self;

    if (unlikely(!t)) {
        t = thread_new();
    }
    t->start = cpu_get_host_ticks();
    t->lookup = 0;
    t->miss = NULL;
    t->hit = NULL;
    t->did_adopt = false;
    t->cacheable = false;
    t->cpu = cpu;
    t->vcpu = cpu->cpu_index;
    if (unlikely(t->full)) {
        /* Here, where the vCPU holds no page that others may wait for. */
        t->full = false;
        tb_cache_journal_make_room(tb_cache, t);
    }
    return t;
}

void tb_cache_end_slow(TbCacheThread *t)
{
    int64_t now = cpu_get_host_ticks();

    t->requested++;
    if (t->did_adopt) {
        t->adopted++;
        t->adopt_cycles += now - t->start;
    } else {
        t->translated++;
        t->miss_cycles += t->lookup;
        t->translate_cycles += now - t->start - t->lookup;
        if (t->miss) {
            (*t->miss)++;
        }
    }
}

/* Returns the counter of why this block can't be keyed, or NULL. */
static uint64_t *refusal(TbCacheThread *t, CPUState *cpu,
                         const TranslationBlock *tb)
{
    TbCacheMisses *m = &t->misses;
    uint32_t cflags = tb_cflags(tb);

    if (unlikely(tb_page_addr0(tb) == -1)) {
        return &m->io;
    }
    if (unlikely(cflags & (CF_COUNT_MASK | CF_SINGLE_STEP | CF_USE_ICOUNT |
                           CF_BP_PAGE | CF_MEMI_ONLY))) {
        return cflags & CF_USE_ICOUNT ? &m->icount
            : cflags & CF_SINGLE_STEP ? &m->single_step
            : cflags & CF_BP_PAGE ? &m->breakpoint
            : &m->count;
    }
    if (unlikely(!(cflags & CF_PCREL))) {
        return &m->not_pcrel;
    }
    if (unlikely(qemu_loglevel_mask(CPU_LOG_TB_IN_ASM | CPU_LOG_TB_OUT_ASM |
                                    CPU_LOG_TB_OP | CPU_LOG_TB_OP_OPT |
                                    CPU_LOG_TB_OP_IND))) {
        return &m->logging;
    }
#ifdef CONFIG_PLUGIN
    if (unlikely(test_bit(QEMU_PLUGIN_EV_VCPU_TB_TRANS,
                          cpu->plugin_state->event_mask))) {
        return &m->plugin;
    }
#endif
    return NULL;
}

/*
 * Make the second page's guest code known and lock the page.
 * Returns false if it is not RAM.  May leave by longjmp, see
 * tb_cache_adopt; gen_tb then tells which pages to unlock.
 */
static bool second_page(TbCacheThread *t, CPUState *cpu,
                        TranslationBlock *tb, vaddr pc)
{
    tb_page_addr_t phys2;
    void *host2;

    if (t->page2_tried) {
        return t->page2 != NULL;
    }
    t->page2_tried = true;

    phys2 = get_page_addr_code_hostp(cpu_env(cpu),
                                     (pc & TARGET_PAGE_MASK) + TARGET_PAGE_SIZE,
                                     &host2);
    if (phys2 == -1) {
        return false;
    }
    t->page2 = host2;
    /*
     * Where page 2 lies below page 1 and is busy, tb_lock_page1 drops both
     * locks, takes them in order and jumps.  Then both are held as well,
     * but the first page may have changed: the caller compares after this.
     */
    if (sigsetjmp(tcg_ctx->jmp_trans, 0) == 0) {
        tb_set_page_addr1(tb, phys2);
        tb_lock_page1(tb_page_addr0(tb), phys2);
    }
    return true;
}

static void release_second_page(TranslationBlock *tb)
{
    if (tb_page_addr1(tb) != -1) {
        tb_unlock_page1(tb_page_addr0(tb), tb_page_addr1(tb));
        tb_set_page_addr1(tb, -1);
    }
}

static unsigned nb_imms(const TbCacheBlock *b)
{
    return (b->block_flags & TB_CACHE_BLOCK_IMMS_MASK)
           >> TB_CACHE_BLOCK_IMMS_SHIFT;
}

static size_t body_size(const TbCacheBlock *b)
{
    return (size_t)b->guest_size + b->code_size + b->search_size
           + nb_imms(b) * TB_CACHE_IMM_SIZE;
}

/* The @i-th immediate that @b does not depend on. */
static TbCacheImm get_imm(const TbCacheBlock *b, unsigned i)
{
    const uint8_t *p = b->data + b->guest_size + b->code_size
                       + b->search_size + i * TB_CACHE_IMM_SIZE;

    return (TbCacheImm){ lduw_le_p(p), lduw_le_p(p + 2) };
}

static bool any_context(const TbCacheBlock *b)
{
    return b->block_flags & TB_CACHE_BLOCK_ANY_CONTEXT;
}

static bool sane_jump(const TbCacheBlock *b, int n)
{
    uint32_t insn = b->jmp_insn_offset[n];
    uint32_t reset = b->jmp_reset_offset[n];

    if (reset == TB_JMP_OFFSET_INVALID) {
        return true;
    }
    return insn % 4 == 0 && insn + 4 <= b->code_size && reset <= b->code_size;
}

static bool sane_imms(const TbCacheBlock *b)
{
    for (unsigned i = 0; i < nb_imms(b); i++) {
        TbCacheImm imm = get_imm(b, i);

        if (imm.host != TB_CACHE_IMM_NONE && imm.host + 4 > b->code_size) {
            return false;
        }
    }
    return true;
}

/* Whether the fields agree with each other; the checksum came first. */
static bool sane_block(const TbCacheBlock *b)
{
    return sane_imms(b)
        && !(any_context(b) && b->cflags & CF_PARALLEL_BIT)
        && b->guest_size > 0 && b->guest_size <= TB_CACHE_MAX_GUEST
        && b->icount > 0 && b->icount <= TCG_MAX_INSNS
        && b->code_size > 0 && b->search_size > 0
        && sane_jump(b, 0) && sane_jump(b, 1)
        && !(b->block_flags & TB_CACHE_BLOCK_TWO_PAGES)
           == (b->page_offset + b->guest_size <= TARGET_PAGE_SIZE);
}

/*
 * Compare guest code of which 32-bit immediates may differ, as long as they
 * would have been opaque to a translator as well.  Nothing of @b has been
 * checked yet.
 */
static bool same_but_imms(const TbCacheBlock *b, const uint8_t *host)
{
    size_t pos = 0, last = SIZE_MAX;

    for (unsigned i = 0; i < nb_imms(b); i++) {
        TbCacheImm imm = get_imm(b, i);
        size_t at = imm.guest & ~TB_CACHE_IMM_RELATIVE;

        if (at == last) {
            continue;
        }
        if (at < pos || at + 4 > b->guest_size ||
            memcmp(b->data + pos, host + pos, at - pos) ||
            !tcg_guest_imm_opaque(ldl_le_p(host + at),
                                  imm.guest & TB_CACHE_IMM_RELATIVE)) {
            return false;
        }
        last = at;
        pos = at + 4;
    }
    return !memcmp(b->data + pos, host + pos, b->guest_size - pos);
}

/* Compare the key of @b with the request and with the guest's memory. */
static bool block_fits(TbCacheThread *t, CPUState *cpu, TranslationBlock *tb,
                       vaddr pc, const TbCacheKey *k, const TbCacheBlock *b)
{
    size_t n0 = MIN(b->guest_size, k->avail);

    if (b->cs_base != k->cs_base || b->flags != k->flags ||
        b->cflags != k->cflags || b->page_offset != k->page_offset ||
        (k->any_context && !any_context(b))) {
        return false;
    }
    if (nb_imms(b) && b->guest_size == n0) {
        if (same_but_imms(b, k->host)) {
            return true;
        }
        t->miss = &t->misses.bytes;
        return false;
    }
    if (memcmp(b->data, k->host, n0)) {
        t->miss = &t->misses.bytes;
        return false;
    }
    if (likely(b->guest_size == n0)) {
        return true;
    }
    if (k->one_page) {
        return false;
    }
    if (!second_page(t, cpu, tb, pc)) {
        t->miss = &t->misses.page2;
        return false;
    }
    if (memcmp(b->data, k->host, n0) ||
        memcmp(b->data + n0, t->page2, b->guest_size - n0)) {
        t->miss = &t->misses.bytes;
        return false;
    }
    return true;
}

/* Packs are in the order in which a run asked for the blocks. */
static void prefetch_next(const TbCacheBlock *b, size_t size)
{
    const uint8_t *next = b->data + size;

    for (int i = 0; i < 6; i++) {
        __builtin_prefetch(next + i * 64);
    }
}

/*
 * Returns a copy of the block that an index entry of @pack points to, if
 * it fits.
 */
static const TbCacheBlock *try_entry(TbCacheThread *t, CPUState *cpu,
                                     TranslationBlock *tb, vaddr pc,
                                     const TbCacheKey *k,
                                     TbCachePackFile *pack, uint32_t position)
{
    size_t offset = (size_t)position * TB_CACHE_ALIGN;
    const TbCacheBlock *b;
    size_t size;

    if (unlikely(offset < TB_CACHE_HEADER_SIZE ||
                 offset + sizeof(*b) > pack->blocks_end)) {
        t->rejected.bounds++;
        t->miss = &t->misses.rejected;
        return NULL;
    }
    tb_cache_pack_populate(pack, offset);
    b = (const TbCacheBlock *)(pack->base + offset);
    size = body_size(b);
    if (unlikely(size > pack->blocks_end - offset - sizeof(*b) ||
                 size > TB_CACHE_MAX_BLOCK - sizeof(*b))) {
        t->rejected.bounds++;
        t->miss = &t->misses.rejected;
        return NULL;
    }
    if (!block_fits(t, cpu, tb, pc, k, b)) {
        return NULL;
    }
    /* The file may still change under the mapping: check and use a copy. */
    memcpy(t->found, b, sizeof(*b) + size);
    prefetch_next(b, size);
    b = t->found;
    if (unlikely(body_size(b) != size)) {
        size = 0;
    }
    if (unlikely(XXH3_64bits(&b->cs_base, sizeof(*b) - sizeof(b->checksum)
                             + size) != b->checksum)) {
        t->rejected.checksum++;
        t->miss = &t->misses.rejected;
        return NULL;
    }
    if (unlikely(!sane_block(b))) {
        t->rejected.bounds++;
        t->miss = &t->misses.rejected;
        return NULL;
    }
    return b;
}

/* Whether @pack says that it holds no block with the flags of @k. */
static bool other_flags(const TbCachePackFile *pack, const TbCacheKey *k)
{
    return (k->flags & pack->flags_clear) | (~k->flags & pack->flags_set);
}

/*
 * Look in all packs for a block with this @prefix.  Longer blocks come
 * first in the index, and any that fits is right.
 */
static const TbCacheBlock *find_prefix(TbCacheThread *t, CPUState *cpu,
                                       TranslationBlock *tb, vaddr pc,
                                       const TbCacheKey *k, bool is_long,
                                       uint64_t prefix)
{
    unsigned n = qatomic_load_acquire(&tb_cache->n_packs);
    uint64_t h = tb_cache_hash(k->page_offset, is_long, prefix, k->flags,
                               k->cflags, k->cs_base);
    uint16_t tag = h;

    for (unsigned i = 0; i < n; i++) {
        TbCachePackFile *pack = tb_cache->packs[i];
        uint64_t slot = ((h >> 32) * pack->slot_count) >> 32;
        const TbCacheIndexEntry *e;

        if (other_flags(pack, k)) {
            continue;
        }
        for (; slot < pack->index_entries; slot++) {
            const TbCacheBlock *b;
            uint32_t position;

            e = &pack->index[slot];
            position = e->position;
            if (position == 0) {
                break;
            }
            if (e->tag != tag ||
                (is_long ? e->prefix : e->prefix & 0xff) != prefix) {
                continue;
            }
            b = try_entry(t, cpu, tb, pc, k, pack, position);
            if (b) {
                t->pack = pack;
                t->position = position;
                return b;
            }
        }
    }
    return NULL;
}

/*
 * Runs ask for blocks in much the same order, which is the order of a pack:
 * the block behind the one that was found last is often the one that is
 * wanted next.  It is in the processor's cache by now, unlike the index.
 */
static const TbCacheBlock *find_next(TbCacheThread *t, CPUState *cpu,
                                     TranslationBlock *tb, vaddr pc,
                                     const TbCacheKey *k)
{
    unsigned n = qatomic_load_acquire(&tb_cache->n_packs);
    uint64_t *miss = t->miss;

    for (unsigned i = 0; i < n; i++) {
        TbCachePackFile *pack = tb_cache->packs[i];
        size_t offset = (size_t)t->behind[i] * TB_CACHE_ALIGN;
        const TbCacheBlock *b = (const TbCacheBlock *)(pack->base + offset);

        if (offset == 0 || offset + sizeof(*b) >= pack->blocks_end ||
            other_flags(pack, k) || b->page_offset != k->page_offset ||
            b->flags != k->flags || b->cflags != k->cflags ||
            b->data[0] != k->host[0]) {
            continue;
        }
        b = try_entry(t, cpu, tb, pc, k, pack, t->behind[i]);
        if (b) {
            t->pack = pack;
            t->position = t->behind[i];
            return b;
        }
        /* What the index says is the reason, if it is one. */
        t->miss = miss;
    }
    return NULL;
}

static const TbCacheBlock *find_key(TbCacheThread *t, CPUState *cpu,
                                    TranslationBlock *tb, vaddr pc,
                                    const TbCacheKey *k)
{
    const TbCacheBlock *b = NULL;

    if (k->avail >= TB_CACHE_PREFIX) {
        b = find_prefix(t, cpu, tb, pc, k, true, ldq_le_p(k->host));
    }
    return b ?: find_prefix(t, cpu, tb, pc, k, false, k->host[0]);
}

/*
 * Blocks that serve both values of CF_PARALLEL are kept as if it were off,
 * as are those that need it to be: so one lookup does where it is off.
 */
static const TbCacheBlock *find_block(TbCacheThread *t, CPUState *cpu,
                                      TranslationBlock *tb, vaddr pc,
                                      const uint8_t *host)
{
    TbCacheKey k = {
        .cs_base = tb->cs_base,
        .flags = tb->flags,
        .cflags = tb->cflags & ~CF_PARALLEL_BIT,
        .any_context = tb->cflags & CF_PARALLEL_BIT,
        .page_offset = pc & ~TARGET_PAGE_MASK,
        .avail = -(pc | TARGET_PAGE_MASK),
        .host = host,
    };
    const TbCacheBlock *b;

    if (unlikely(qatomic_read(&tb_cache->n_packs) == 0)) {
        t->miss = &t->misses.no_pack;
        return NULL;
    }
    t->miss = &t->misses.absent;
    t->page2 = NULL;
    t->page2_tried = false;
    b = find_next(t, cpu, tb, pc, &k) ?: find_key(t, cpu, tb, pc, &k);
    if (!b && k.any_context) {
        k.cflags = tb->cflags;
        k.any_context = false;
        b = find_key(t, cpu, tb, pc, &k);
    }
    if (b) {
        t->behind[t->pack->number] =
            t->position + DIV_ROUND_UP(sizeof(*b) + body_size(b),
                                       TB_CACHE_ALIGN);
    }
    return b;
}

/*
 * Whether a pack holds the block just translated for the other value of
 * CF_PARALLEL.  Only asked of blocks that depend on it.
 */
static bool other_context_has(TbCacheThread *t, TranslationBlock *tb,
                              vaddr pc)
{
    TbCacheKey k = {
        .cs_base = tb->cs_base,
        .flags = tb->flags,
        .cflags = tb->cflags ^ CF_PARALLEL_BIT,
        .page_offset = pc & ~TARGET_PAGE_MASK,
        .one_page = true,
        .avail = tb->size,
        .host = t->guest,
    };

    return find_key(t, t->cpu, tb, pc, &k) != NULL;
}

/* Tell apart what a machine with another number of vCPUs has left. */
static void refine_miss(TbCacheThread *t, TranslationBlock *tb, vaddr pc)
{
    uint64_t *miss = t->miss;

    if (!tcg_asked_parallel || tcg_ctx->guest_bytes_len < tb->size ||
        (miss != &t->misses.absent && miss != &t->misses.bytes)) {
        return;
    }
    t->miss = other_context_has(t, tb, pc) ? &t->misses.parallel : miss;
}

/* Copy code and search data, with the immediates that the guest has now. */
static void copy_code(uint8_t *code, const TbCacheBlock *b,
                      const uint8_t *host)
{
    memcpy(code, b->data + b->guest_size, b->code_size + b->search_size);
    if (b->block_flags & TB_CACHE_BLOCK_TWO_PAGES) {
        return;
    }
    for (unsigned i = 0; i < nb_imms(b); i++) {
        TbCacheImm imm = get_imm(b, i);

        if (imm.host != TB_CACHE_IMM_NONE) {
            memcpy(code + imm.host,
                   host + (imm.guest & ~TB_CACHE_IMM_RELATIVE), 4);
        }
    }
}

static void adopt_block(TranslationBlock *tb, const TbCacheBlock *b,
                        const uint8_t *host, TbCacheSizes *sizes)
{
    void *code = tcg_splitwx_to_rw(tb->tc.ptr);

    copy_code(code, b, host);
    flush_idcache_range((uintptr_t)tb->tc.ptr, (uintptr_t)code, b->code_size);
    tb->size = b->guest_size;
    tb->icount = b->icount;
    tb->tc.size = b->code_size;
    for (int i = 0; i < 2; i++) {
        tb->jmp_reset_offset[i] = b->jmp_reset_offset[i];
        tb->jmp_insn_offset[i] = b->jmp_insn_offset[i];
    }
    sizes->code = b->code_size;
    sizes->search = b->search_size;
}

/* Whether the thread's reads are to be kept for tb_cache_translated. */
static void watch_translator(TbCacheThread *t, bool on)
{
    tcg_ctx->guest_bytes = on ? t->guest : NULL;
    tcg_ctx->guest_bytes_len = 0;
}

static void note_content(const TranslationBlock *tb, vaddr pc,
                         const uint8_t *code)
{
    size_t avail = -(pc | TARGET_PAGE_MASK);

    tb_cache_content(tb_cache, tb_page_addr0(tb), code, MIN(tb->size, avail));
}

bool tb_cache_adopt(TbCacheThread *t, CPUState *cpu, TranslationBlock *tb,
                    vaddr pc, const void *host_pc, TbCacheSizes *sizes)
{
    const TbCacheBlock *b;
    int64_t start;

    watch_translator(t, false);
    t->hit = NULL;
    t->miss = refusal(t, cpu, tb);
    if (!t->miss && tb_cache_is_dead(tb_page_addr0(tb))) {
        t->miss = &t->misses.dead;
    }
    t->cacheable = t->miss == NULL;
    if (!t->cacheable) {
        return false;
    }

    start = cpu_get_host_ticks();
    b = find_block(t, cpu, tb, pc, host_pc);
    if (b && tb_cache->mode == TB_CACHE_MODE_VERIFY) {
        t->hit = b;
        t->miss = NULL;
    } else if (b) {
        void *end = tcg_splitwx_to_rw(tb->tc.ptr);

        end += b->code_size + b->search_size;
        if (likely(end <= tcg_ctx->code_gen_highwater)) {
            adopt_block(tb, b, host_pc, sizes);
            tb_cache_prefault(t, end, tcg_ctx->code_gen_highwater);
            note_content(tb, pc, host_pc);
            tb_cache_journal_use(tb_cache, t, tb_page_addr0(tb));
            t->did_adopt = true;
            return true;
        }
        /* The translator will overflow as well, and come back. */
        t->miss = &t->misses.buffer_full;
    }
    release_second_page(tb);
    t->lookup = cpu_get_host_ticks() - start;
    watch_translator(t, true);
    return false;
}

/*
 * How many immediates the block just translated does not depend on, as far
 * as that is recorded: the code on two pages is compared as it is.
 */
static unsigned count_imms(const TranslationBlock *tb)
{
    return tb_page_addr1(tb) == -1 ? tcg_ctx->nb_guest_imms : 0;
}

static int cmp_imm(const void *a, const void *b)
{
    const TbCacheImm *ia = a, *ib = b;

    return (ia->guest & ~TB_CACHE_IMM_RELATIVE)
           - (ib->guest & ~TB_CACHE_IMM_RELATIVE);
}

static unsigned collect_imms(const TranslationBlock *tb, TbCacheImm *imms)
{
    unsigned n = count_imms(tb);

    for (unsigned i = 0; i < n; i++) {
        const TCGGuestImm *g = &tcg_ctx->guest_imms[i];

        imms[i].guest = g->guest | (g->relative ? TB_CACHE_IMM_RELATIVE : 0);
        imms[i].host = g->host;
    }
    qsort(imms, n, sizeof(imms[0]), cmp_imm);
    return n;
}

static void G_GNUC_PRINTF(3, 4)
mismatch(TbCacheThread *t, const TbCacheBlock *b, const char *fmt, ...)
{
    g_autoptr(GString) s = g_string_new(NULL);
    va_list ap;

    t->mismatches++;
    qemu_mutex_lock(&tb_cache->lock);
    if (tb_cache->mismatch_log->len < TB_CACHE_MAX_LOG) {
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
 * Another vCPU may have written to the code after the lookup: then the
 * block that was found is not the one that was translated.
 */
static bool still_fits(const TbCacheThread *t, const TranslationBlock *tb,
                       const TbCacheBlock *b)
{
    size_t known = MIN(tcg_ctx->guest_bytes_len, b->guest_size);

    if (nb_imms(b) && !(b->block_flags & TB_CACHE_BLOCK_TWO_PAGES)) {
        return known < b->guest_size || same_but_imms(b, t->guest);
    }
    return !memcmp(b->data, t->guest, known);
}

static void verify_block(TbCacheThread *t, const TranslationBlock *tb,
                         int search_size)
{
    const TbCacheBlock *b = t->hit;
    const uint8_t *code = tcg_splitwx_to_rw(tb->tc.ptr);
    g_autofree uint8_t *cached = g_malloc(b->code_size + b->search_size);

    copy_code(cached, b, t->guest);
    t->verified++;
    if (tb->size != b->guest_size && ends_at_crossing(b, tb)) {
        t->verify_prefix++;
    } else if (tb->size != b->guest_size || tb->icount != b->icount) {
        mismatch(t, b, "%u guest bytes in %u insns, cached %u in %u",
                 tb->size, tb->icount, b->guest_size, b->icount);
    } else if (tb->tc.size != b->code_size || search_size != b->search_size) {
        mismatch(t, b, "%zu bytes of code and %d of search data, cached %u "
                 "and %u", tb->tc.size, search_size, b->code_size,
                 b->search_size);
    } else if (memcmp(tb->jmp_reset_offset, b->jmp_reset_offset, 4) ||
               memcmp(tb->jmp_insn_offset, b->jmp_insn_offset, 4)) {
        mismatch(t, b, "other jumps");
    } else if (any_context(b) && tcg_asked_parallel) {
        mismatch(t, b, "depends on the number of vCPUs, cached does not");
    } else if (nb_imms(b) != count_imms(tb)) {
        mismatch(t, b, "%u moving immediates, cached %u", count_imms(tb),
                 nb_imms(b));
    } else if (memcmp(code, cached, b->code_size + search_size)) {
        size_t i = 0;

        while (code[i] == cached[i]) {
            i++;
        }
        mismatch(t, b, "%s differs at byte %zu of %u",
                 i < b->code_size ? "code" : "search data", i, b->code_size);
    }
}

/* Returns the counter of why the fresh block can't be kept, or NULL. */
static uint64_t *unrecordable(TbCacheThread *t, const TranslationBlock *tb)
{
    TbCacheUnrecorded *u = &t->unrecorded;

    if (!t->cacheable || tb_page_addr0(tb) == -1) {
        return &u->uncacheable;
    }
    if (qatomic_read(&tb_cache->frozen)) {
        return &u->frozen;
    }
    if (!tcg_ctx->position_independent || tcg_ctx->position_dependent) {
        return &u->helper;
    }
    if (tcg_ctx->guest_bytes_len < tb->size) {
        return &u->bytes_unknown;
    }
    return NULL;
}

static void record_block(TbCacheThread *t, const TranslationBlock *tb,
                         vaddr pc, int search_size)
{
    TbCacheBlock b = {
        .cs_base = tb->cs_base,
        .flags = tb->flags,
        .cflags = tb->cflags,
        .page_offset = pc & ~TARGET_PAGE_MASK,
        .guest_size = tb->size,
        .icount = tb->icount,
        .search_size = search_size,
        .code_size = tb->tc.size,
        .block_flags = tb_page_addr1(tb) != -1 ? TB_CACHE_BLOCK_TWO_PAGES : 0,
    };
    TbCacheRecord r = {
        .magic = TB_CACHE_RECORD_MAGIC,
        .type = TB_CACHE_RECORD_BLOCK,
        .vcpu = t->vcpu,
        .pc = pc,
        .ram0 = tb_page_addr0(tb),
        .ram1 = tb_page_addr1(tb),
    };

    TbCacheImm imms[TCG_MAX_GUEST_IMMS];

    unsigned n = collect_imms(tb, imms);

    b.block_flags |= n << TB_CACHE_BLOCK_IMMS_SHIFT;
    if (!tcg_asked_parallel) {
        b.block_flags |= TB_CACHE_BLOCK_ANY_CONTEXT;
        b.cflags &= ~CF_PARALLEL_BIT;
    }
    if (n && (imms[0].guest & ~TB_CACHE_IMM_RELATIVE) < TB_CACHE_PREFIX) {
        b.block_flags |= TB_CACHE_BLOCK_SHORT_KEY;
    }
    for (int i = 0; i < 2; i++) {
        b.jmp_reset_offset[i] = tb->jmp_reset_offset[i];
        b.jmp_insn_offset[i] = tb->jmp_insn_offset[i];
    }
    tb_cache_journal_append(tb_cache, t, &r, &b, t->guest,
                            tcg_splitwx_to_rw(tb->tc.ptr), imms);
}

void tb_cache_translated(TbCacheThread *t, TranslationBlock *tb, vaddr pc,
                         int search_size)
{
    uint64_t *why;

    if (t->cacheable && tcg_ctx->guest_bytes_len >= tb->size &&
        tb_page_addr0(tb) != -1) {
        note_content(tb, pc, t->guest);
    }
    if (t->hit && still_fits(t, tb, t->hit)) {
        verify_block(t, tb, search_size);
        tb_cache_journal_use(tb_cache, t, tb_page_addr0(tb));
        return;
    }
    if (t->hit) {
        t->hit = NULL;
        t->miss = &t->misses.bytes;
    }
    refine_miss(t, tb, pc);
    if (!tb_cache->records) {
        return;
    }
    why = unrecordable(t, tb);
    if (why) {
        (*why)++;
    } else {
        record_block(t, tb, pc, search_size);
    }
}
