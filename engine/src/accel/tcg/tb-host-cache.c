/*
 * Translation blocks found by the host's address of their guest code
 *
 * Copyright (c) 2026 The sysqcache authors
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/atomic.h"
#include "qemu/cacheinfo.h"
#include "qemu/rcu.h"
#include "exec/cputlb.h"
#include "exec/exec-all.h"
#include "exec/log.h"
#include "exec/memory.h"
#include "exec/tlb-common.h"
#include "hw/core/cpu.h"
#include "system/cpu-timers.h"
#include "tcg/tcg.h"
#include "tb-context.h"
#include "tb-host-cache.h"
#include "tb-internal.h"
#include "tb-jmp-cache.h"
#include "internal-common.h"
#include "internal-target.h"

/* What the stub of a vCPU looks at that must find nothing. */
static const TBHostEntry nothing;

void tb_host_cache_describe(void)
{
    tcg_ctx->page_bits = TARGET_PAGE_BITS;
    tcg_ctx->page_mask = TARGET_PAGE_MASK;
#if defined(TARGET_X86_64) || defined(TARGET_AARCH64)
    tb_lookup_state = &target_tb_lookup_state;
#endif
}

static void stub_finds(CPUState *cpu, uintptr_t mask, const TBHostEntry *table)
{
    cpu->neg.tcg_calls[TCG_CALL_SLOT_HOST_MASK] = (void *)mask;
    cpu->neg.tcg_calls[TCG_CALL_SLOT_HOST_TABLE] = (void *)table;
}

void tb_host_cache_init(CPUState *cpu)
{
    stub_finds(cpu, 0, &nothing);
}

static TBHostEntry *entry_for(CPUState *cpu, uintptr_t host)
{
    return &cpu->tb_jmp_cache->host[tb_host_index(host)];
}

static uint64_t key_for(int mmu_idx, uint32_t flags)
{
    bool stub = (flags & tb_lookup_state->required_mask) ==
        tb_lookup_state->required;

    return tb_host_key(flags, mmu_idx * sizeof(CPUTLBDescFast), stub);
}

/* From the TB to its code. */
static size_t header_size(void)
{
    return ROUND_UP(sizeof(TranslationBlock),
                    tcg_tb_align ?: qemu_icache_linesize);
}

static TranslationBlock *tb_of(const TBHostEntry *e)
{
    return (void *)tcg_splitwx_to_rw(e->code) - header_size();
}

static bool entry_is(const TBHostEntry *e, uintptr_t host, uint64_t key,
                     uint64_t cs_base)
{
    return qatomic_read(&e->host) == host && e->key == key &&
        e->cs_base == cs_base;
}

/*
 * Put @tb into the cache.  @removals is from before it was found in the hash
 * table, or made: if it has been removed since, that has changed.
 */
static void store(CPUState *cpu, unsigned long removals, uintptr_t host,
                  uint64_t key, const TranslationBlock *tb)
{
    TBHostEntry *e = entry_for(cpu, host);

    qatomic_set(&e->host, 0);
    e->key = key;
    e->cs_base = tb->cs_base;
    e->code = tcg_splitwx_to_rx((void *)tb) + header_size();
    tcg_debug_assert(e->code == tb->tc.ptr);
    qatomic_set(&e->host, host);
    /* Pairs with tb_host_cache_forget(). */
    smp_mb();
    if (unlikely(qatomic_read(&tb_ctx.tb_removals) != removals)) {
        qatomic_set(&e->host, 0);
    }
}

TranslationBlock *tb_host_cache_find(CPUState *cpu, vaddr pc,
                                     uint64_t cs_base, uint32_t flags)
{
    int mmu_idx = cpu_mmu_index(cpu, true);
    uintptr_t host = tlb_code_address(cpu, pc, mmu_idx);
    const TBHostEntry *e;

    if (unlikely(!host)) {
        return NULL;
    }
    e = entry_for(cpu, host);
    return likely(entry_is(e, host, key_for(mmu_idx, flags), cs_base)) ?
        tb_of(e) : NULL;
}

TranslationBlock *tb_host_cache_fill(CPUState *cpu, vaddr pc,
                                     uint64_t cs_base, uint32_t flags,
                                     uint32_t cflags)
{
    uint64_t key = key_for(cpu_mmu_index(cpu, true), flags);
    void *host;
    tb_page_addr_t phys_pc =
        get_page_addr_code_hostp(cpu_env(cpu), pc, &host);
    const TBHostEntry *e;
    TranslationBlock *tb;
    unsigned long removals;

    if (phys_pc == -1) {
        return NULL;
    }
    e = entry_for(cpu, (uintptr_t)host);
    if (entry_is(e, (uintptr_t)host, key, cs_base)) {
        return tb_of(e);
    }
    removals = qatomic_load_acquire(&tb_ctx.tb_removals);
    tb = tb_htable_find(cpu, phys_pc, pc, cs_base, flags, cflags);
    if (tb && tb_host_cache_wants(tb)) {
        store(cpu, removals, (uintptr_t)host, key, tb);
    }
    return tb;
}

void tb_host_cache_made(CPUState *cpu, unsigned long removals, vaddr pc,
                        const TranslationBlock *tb)
{
    int mmu_idx = cpu_mmu_index(cpu, true);
    uintptr_t host = tlb_code_address(cpu, pc, mmu_idx);

    /* What has become stale is without its flags. */
    if (host && tb_host_cache_has(cpu, tb_cflags(tb))) {
        store(cpu, removals, host, key_for(mmu_idx, tb->flags), tb);
    }
}

/* The first time, and if the vCPU's own flags have changed. */
static void begin(CPUState *cpu)
{
    tb_host_cache_clear(cpu);
    cpu->tb_jmp_cache->host_cflags = cpu->tcg_cflags;
}

void tb_host_cache_update(CPUState *cpu, uint32_t cflags)
{
    CPUJumpCache *jc = cpu->tb_jmp_cache;
    bool finds;

    if (!tb_lookup_stub || unlikely(!(cpu->tcg_cflags & CF_PCREL))) {
        return;
    }
    if (unlikely(jc->host_cflags != cpu->tcg_cflags)) {
        begin(cpu);
    }
    finds = cflags == jc->host_cflags && QTAILQ_EMPTY(&cpu->breakpoints) &&
        !qemu_loglevel_mask(CPU_LOG_TB_CPU | CPU_LOG_EXEC) &&
        !icount_enabled();
    if (unlikely(finds != jc->stub_finds)) {
        jc->stub_finds = finds;
        stub_finds(cpu, finds ? sizeof(jc->host) - sizeof(*jc->host) : 0,
                   finds ? jc->host : &nothing);
    }
}

void tb_host_cache_clear(CPUState *cpu)
{
    TBHostEntry *host = cpu->tb_jmp_cache->host;

    /* Reading what was never used leaves it without memory of its own. */
    for (size_t i = 0; i < TB_HOST_CACHE_SIZE; i++) {
        if (host[i].host) {
            host[i].host = 0;
        }
    }
}

uintptr_t tb_host_cache_address(const TranslationBlock *tb)
{
    if (!tb_lookup_stub || tb_page_addr0(tb) == -1) {
        return 0;
    }
    RCU_READ_LOCK_GUARD();
    return (uintptr_t)qemu_map_ram_ptr(NULL, tb_page_addr0(tb));
}

void tb_host_cache_forget(CPUState *cpu, uintptr_t host)
{
    TBHostEntry *e = entry_for(cpu, host);

    if (qatomic_read(&e->host) == host) {
        qatomic_set(&e->host, 0);
    }
}
