/*
 * Persistent translation cache: adopt and record
 *
 * Copyright (c) 2026 The sysqcache authors
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Everything here runs in vCPU threads, inside tb_gen_code().
 */

#include "qemu/osdep.h"
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
#include "tb-audit.h"
#include "tb-internal.h"
#include "tb-cache-internal.h"
#include "trace.h"

QEMU_BUILD_BUG_ON(TB_CACHE_CF_PARALLEL != CF_PARALLEL_BIT);
QEMU_BUILD_BUG_ON(TB_CACHE_NO_JUMP != TB_JMP_OFFSET_INVALID);
QEMU_BUILD_BUG_ON(TB_CACHE_MAX_INSNS != TCG_MAX_INSNS);
QEMU_BUILD_BUG_ON(TB_CACHE_MAX_IMMS != TCG_MAX_GUEST_IMMS);

bool tb_cache_on;
TbCache *tb_cache;

static __thread TbCacheThread *thread_self;
static QSLIST_HEAD(, TbCacheThread) threads = QSLIST_HEAD_INITIALIZER(threads);

static TbCachePage2 second_page;

static TbCacheThread *thread_new(void)
{
    TbCacheThread *t = g_new0(TbCacheThread, 1);

    tb_cache_find_init(&t->find);
    t->find.get_page2 = second_page;
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
    for (t = qatomic_load_acquire(&threads.slh_first); t;
         t = t->next.sle_next) {
        fn(t, opaque);
    }
}

/* What has waited for a moment at which the vCPU holds no page. */
static void catch_up(TbCacheThread *t)
{
    if (unlikely(t->find.cold)) {
        tb_cache_find_populate(&t->find);
    }
    if (unlikely(t->died.size)) {
        tb_cache_journal_dead(tb_cache, &t->died);
        t->died.size = 0;
    }
    if (unlikely(t->full)) {
        t->full = false;
        tb_cache_journal_make_room(tb_cache, t);
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
    t->find.miss = NULL;
    t->hit = NULL;
    t->did_adopt = false;
    t->cacheable = false;
    t->cpu = cpu;
    t->vcpu = cpu->cpu_index;
    /* The request before may have ended with an exception of the guest. */
    catch_up(t);
    return t;
}

void tb_cache_end_slow(TbCacheThread *t)
{
    int64_t now;

    catch_up(t);
    now = cpu_get_host_ticks();
    tb_cache_count(&t->requested, 1);
    if (t->did_adopt) {
        tb_cache_count(&t->adopted, 1);
        tb_cache_count(&t->adopt_cycles, now - t->start);
    } else {
        tb_cache_count(&t->translated, 1);
        tb_cache_count(&t->miss_cycles, t->lookup);
        tb_cache_count(&t->translate_cycles, now - t->start - t->lookup);
        if (t->find.miss) {
            tb_cache_count(t->find.miss, 1);
        }
    }
}

/* Returns the counter of why this block can't be keyed, or NULL. */
static uint64_t *refusal(TbCacheThread *t, CPUState *cpu,
                         const TranslationBlock *tb)
{
    TbCacheMisses *m = &t->find.misses;
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
 * Make the second page's guest code known and lock the page.  Returns NULL
 * if it is not RAM.  May leave by longjmp, see tb_cache_adopt; gen_tb then
 * tells which pages to unlock.
 */
static const uint8_t *second_page(TbCacheFind *f)
{
    TbCacheThread *t = container_of(f, TbCacheThread, find);
    TranslationBlock *tb = t->tb;
    tb_page_addr_t phys2;
    void *host2;

    phys2 = get_page_addr_code_hostp(cpu_env(t->cpu),
                                     (t->pc & TARGET_PAGE_MASK)
                                     + TARGET_PAGE_SIZE, &host2);
    if (phys2 == -1) {
        return NULL;
    }
    /*
     * Where page 2 lies below page 1 and is busy, tb_lock_page1 drops both
     * locks, takes them in order and jumps.  Then both are held as well,
     * but the first page may have changed: the caller compares after this.
     */
    if (sigsetjmp(tcg_ctx->jmp_trans, 0) == 0) {
        tb_set_page_addr1(tb, phys2);
        tb_lock_page1(tb_page_addr0(tb), phys2);
    }
    return host2;
}

static void release_second_page(TranslationBlock *tb)
{
    if (tb_page_addr1(tb) != -1) {
        tb_unlock_page1(tb_page_addr0(tb), tb_page_addr1(tb));
        tb_set_page_addr1(tb, -1);
    }
}

static TbCacheKey request_key(const TranslationBlock *tb, vaddr pc,
                              const uint8_t *host)
{
    return (TbCacheKey) {
        .cs_base = tb->cs_base,
        .flags = tb->flags,
        .cflags = tb->cflags,
        .page_offset = pc & ~TARGET_PAGE_MASK,
        .page_bits = TARGET_PAGE_BITS,
        .avail = -(pc | TARGET_PAGE_MASK),
        .host = host,
    };
}

/*
 * Whether a pack holds the block just translated for the other value of
 * CF_PARALLEL.  Only asked of blocks that depend on it.
 */
static bool other_context_has(TbCacheThread *t, TranslationBlock *tb,
                              vaddr pc)
{
    TbCacheKey k = request_key(tb, pc, t->guest);

    k.cflags ^= CF_PARALLEL_BIT;
    k.one_page = true;
    k.avail = tb->size;
    return tb_cache_find_exactly(&t->find, tb_cache->packs,
                                 qatomic_load_acquire(&tb_cache->n_packs),
                                 &k) != NULL;
}

/* Tell apart what a machine with another number of vCPUs has left. */
static void refine_miss(TbCacheThread *t, TranslationBlock *tb, vaddr pc)
{
    TbCacheMisses *m = &t->find.misses;
    uint64_t *miss = t->find.miss;

    if (!tcg_asked_parallel || tcg_ctx->guest_bytes_len < tb->size ||
        (miss != &m->absent && miss != &m->bytes)) {
        return;
    }
    t->find.miss = other_context_has(t, tb, pc) ? &m->parallel : miss;
}

/* Copy code and search data, with the immediates that the guest has now. */
static void copy_code(uint8_t *code, const TbCacheBlock *b,
                      const uint32_t *values)
{
    memcpy(code, b->data + b->guest_size, b->code_size + b->search_size);
    for (unsigned i = 0; i < tb_cache_nb_imms(b); i++) {
        memcpy(code + tb_cache_imm(b, b->data, i).host, &values[i], 4);
    }
}

static void audit_adopted(const TbCacheThread *t, TranslationBlock *tb,
                          const TbCacheBlock *b)
{
    uint8_t code[TB_CACHE_MAX_GUEST];

    if (!tb_cache_nb_imms(b)) {
        tb_audit_note(tb, b->data);
        return;
    }
    memcpy(code, b->data, b->guest_size);
    for (unsigned i = 0; i < tb_cache_nb_imms(b); i++) {
        memcpy(code + tb_cache_imm_at(tb_cache_imm(b, b->data, i)),
               &t->find.imms[i], 4);
    }
    tb_audit_note(tb, code);
}

static void adopt_block(TbCacheThread *t, TranslationBlock *tb,
                        const TbCacheBlock *b, TbCacheSizes *sizes)
{
    void *code = tcg_splitwx_to_rw(tb->tc.ptr);

    copy_code(code, b, t->find.imms);
    flush_idcache_range((uintptr_t)tb->tc.ptr, (uintptr_t)code, b->code_size);
    tb->size = b->guest_size;
    tb->icount = b->icount;
    tb->tc.size = b->code_size;
    for (int i = 0; i < 2; i++) {
        tb->jmp_reset_offset[i] = b->jmp_reset_offset[i];
        tb->jmp_insn_offset[i] = b->jmp_insn_offset[i];
    }
    /* Another candidate may have needed it. */
    if (!tb_cache_two_pages(b)) {
        release_second_page(tb);
    }
    if (tb_audit_wants(tb)) {
        audit_adopted(t, tb, b);
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

static void note_content(TbCacheThread *t, const TranslationBlock *tb,
                         vaddr pc, const uint8_t *code)
{
    size_t avail = -(pc | TARGET_PAGE_MASK);

    tb_cache_content(tb_page_addr0(tb), code, MIN(tb->size, avail), &t->died);
}

static const TbCacheBlock *find_block(TbCacheThread *t, TranslationBlock *tb,
                                      vaddr pc, const uint8_t *host)
{
    TbCacheKey k = request_key(tb, pc, host);

    t->tb = tb;
    t->pc = pc;
    t->find.directory = qatomic_rcu_read(&tb_cache->directory);
    return tb_cache_find(&t->find, tb_cache->packs,
                         qatomic_load_acquire(&tb_cache->n_packs), &k);
}

bool tb_cache_adopt(TbCacheThread *t, CPUState *cpu, TranslationBlock *tb,
                    vaddr pc, const void *host_pc, TbCacheSizes *sizes)
{
    const TbCacheBlock *b;
    int64_t start;

    watch_translator(t, false);
    t->hit = NULL;
    t->find.miss = refusal(t, cpu, tb);
    if (!t->find.miss && tb_cache_is_dead(tb_page_addr0(tb))) {
        t->find.miss = &t->find.misses.dead;
    }
    t->cacheable = t->find.miss == NULL;
    if (!t->cacheable) {
        return false;
    }

    start = cpu_get_host_ticks();
    b = find_block(t, tb, pc, host_pc);
    if (b && tb_cache->mode == TB_CACHE_MODE_VERIFY) {
        t->hit = b;
        t->find.miss = NULL;
    } else if (b) {
        void *end = tcg_splitwx_to_rw(tb->tc.ptr);

        end += b->code_size + b->search_size;
        if (likely(end <= tcg_ctx->code_gen_highwater)) {
            adopt_block(t, tb, b, sizes);
            tb_cache_prefault(t, end, tcg_ctx->code_gen_highwater);
            /* Not what is in memory now: another vCPU may write there. */
            note_content(t, tb, pc, b->data);
            tb_cache_journal_use(tb_cache, t, tb_page_addr0(tb));
            trace_tb_cache_adopt(pc, t->find.pack->number, t->find.position);
            t->did_adopt = true;
            return true;
        }
        /* The translator will overflow as well, and come back. */
        t->find.miss = &t->find.misses.buffer_full;
    }
    release_second_page(tb);
    t->lookup = cpu_get_host_ticks() - start;
    if (t->find.miss == &t->find.misses.rejected) {
        trace_tb_cache_reject(pc);
    } else if (!b) {
        trace_tb_cache_miss(pc, tb->flags);
    }
    watch_translator(t, true);
    return false;
}

static int cmp_imm(const void *a, const void *b)
{
    const TbCacheImm *ia = a, *ib = b;
    int at = tb_cache_imm_at(*ia) - tb_cache_imm_at(*ib);

    return at ?: ia->host - ib->host;
}

/*
 * The immediates that the block just translated does not depend on, sorted.
 * One that has no place in the code, because its op is dead or because there
 * never was one, may have been looked at instead: it and all others in the
 * same place are compared as they are, as is all code on two pages.
 */
static unsigned collect_imms(const TranslationBlock *tb, TbCacheImm *imms)
{
    unsigned n = tcg_ctx->nb_guest_imms, kept = 0;

    if (tb_page_addr1(tb) != -1 || tcg_ctx->guest_imms_overflow) {
        return 0;
    }
    for (unsigned i = 0; i < n; i++) {
        const TCGGuestImm *g = &tcg_ctx->guest_imms[i];

        imms[i].guest = g->guest | (g->relative ? TB_CACHE_IMM_RELATIVE : 0);
        imms[i].host = g->host;
    }
    qsort(imms, n, sizeof(imms[0]), cmp_imm);
    for (unsigned i = 0, end; i < n; i = end) {
        size_t at = tb_cache_imm_at(imms[i]);

        for (end = i; end < n && tb_cache_imm_at(imms[end]) == at; end++) {
            /* nothing: those without a place come last */
        }
        if (imms[end - 1].host != TCG_GUEST_IMM_NONE && at + 4 <= tb->size) {
            memmove(&imms[kept], &imms[i], (end - i) * sizeof(imms[0]));
            kept += end - i;
        }
    }
    return kept;
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
        .block_flags = t->n_imms << TB_CACHE_BLOCK_IMMS_SHIFT,
    };
    TbCacheRecord r = {
        .magic = TB_CACHE_RECORD_MAGIC,
        .type = TB_CACHE_RECORD_BLOCK,
        .vcpu = t->vcpu,
        .pc = pc,
        .ram0 = tb_page_addr0(tb),
        .ram1 = tb_page_addr1(tb),
    };

    if (tb_page_addr1(tb) != -1) {
        b.block_flags |= TB_CACHE_BLOCK_TWO_PAGES;
    }
    if (tcg_ctx->tb_limited) {
        b.block_flags |= TB_CACHE_BLOCK_LIMITED;
    }
    if (!tcg_asked_parallel) {
        b.block_flags |= TB_CACHE_BLOCK_ANY_CONTEXT;
        b.cflags &= ~CF_PARALLEL_BIT;
    }
    if (t->n_imms && tb_cache_imm_at(t->imms[0]) < TB_CACHE_PREFIX) {
        b.block_flags |= TB_CACHE_BLOCK_SHORT_KEY;
    }
    for (int i = 0; i < 2; i++) {
        b.jmp_reset_offset[i] = tb->jmp_reset_offset[i];
        b.jmp_insn_offset[i] = tb->jmp_insn_offset[i];
    }
    trace_tb_cache_record(pc, tb->size, tb->tc.size);
    tb_cache_journal_append(tb_cache, t, &r, &b, t->guest,
                            tcg_splitwx_to_rw(tb->tc.ptr), t->imms);
}

void tb_cache_translated(TbCacheThread *t, TranslationBlock *tb, vaddr pc,
                         int search_size)
{
    uint64_t *why;

    if (t->cacheable && tcg_ctx->guest_bytes_len >= tb->size &&
        tb_page_addr0(tb) != -1) {
        note_content(t, tb, pc, t->guest);
    }
    t->n_imms = collect_imms(tb, t->imms);
    if (t->hit && tb_cache_still_fits(t)) {
        tb_cache_verify(t, tb, search_size);
        tb_cache_journal_use(tb_cache, t, tb_page_addr0(tb));
        return;
    }
    if (t->hit) {
        t->hit = NULL;
        t->find.miss = &t->find.misses.bytes;
    }
    refine_miss(t, tb, pc);
    if (!tb_cache->records) {
        return;
    }
    why = unrecordable(t, tb);
    if (why) {
        tb_cache_count(why, 1);
    } else {
        record_block(t, tb, pc, search_size);
    }
}
