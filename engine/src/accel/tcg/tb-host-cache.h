/*
 * Translation blocks found by the host's address of their guest code
 *
 * Copyright (c) 2026 The sysqcache authors
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef ACCEL_TCG_TB_HOST_CACHE_H
#define ACCEL_TCG_TB_HOST_CACHE_H

#include "exec/exec-all.h"
#include "exec/translation-block.h"
#include "hw/core/cpu.h"
#include "tcg/tb-lookup.h"
#include "tb-jmp-cache.h"

#ifdef CONFIG_USER_ONLY

static inline void tb_host_cache_init(CPUState *cpu)
{
}

static inline bool tb_host_cache_has(CPUState *cpu, uint32_t cflags)
{
    return false;
}

static inline bool tb_host_cache_wants(const TranslationBlock *tb)
{
    return false;
}

static inline TranslationBlock *
tb_host_cache_find(CPUState *cpu, vaddr pc, uint64_t cs_base, uint32_t flags)
{
    g_assert_not_reached();
}

static inline TranslationBlock *
tb_host_cache_fill(CPUState *cpu, vaddr pc, uint64_t cs_base,
                   uint32_t flags, uint32_t cflags)
{
    g_assert_not_reached();
}

static inline void tb_host_cache_made(CPUState *cpu, unsigned long removals,
                                      vaddr pc, const TranslationBlock *tb)
{
}

static inline void tb_host_cache_update(CPUState *cpu, uint32_t cflags)
{
}

static inline void tb_host_cache_clear(CPUState *cpu)
{
}

static inline uintptr_t tb_host_cache_address(const TranslationBlock *tb)
{
    return 0;
}

static inline void tb_host_cache_forget(CPUState *cpu, uintptr_t host)
{
}

#else

/*
 * Let the target say how its state is read.  Called once, before the prologue
 * is made.
 */
void tb_host_cache_describe(void);

/* Let the stub of a new vCPU find nothing; its jump cache is there. */
void tb_host_cache_init(CPUState *cpu);

/**
 * tb_host_cache_has: whether TBs with @cflags are found in this cache
 *
 * Else they are found as on hosts without a stub.
 */
static inline bool tb_host_cache_has(CPUState *cpu, uint32_t cflags)
{
    /* Until tb_host_cache_update() this is 0, which is without CF_PCREL. */
    return cpu->tb_jmp_cache->host_cflags == cflags;
}

/**
 * tb_host_cache_wants: whether a TB may be here
 *
 * Its code is in memory, and in one page: the TLB was not asked for another.
 */
static inline bool tb_host_cache_wants(const TranslationBlock *tb)
{
    return tb_page_addr0(tb) != -1 && tb_page_addr1(tb) == -1;
}

/**
 * tb_host_cache_find: find a TB here
 *
 * For flags that tb_host_cache_has().  Returns: NULL also if the TLB does not
 * know where @pc leads to.
 */
TranslationBlock *tb_host_cache_find(CPUState *cpu, vaddr pc,
                                     uint64_t cs_base, uint32_t flags);

/**
 * tb_host_cache_fill: find a TB in the hash table, and remember it
 *
 * As tb_lookup(), for flags that tb_host_cache_has().
 */
TranslationBlock *tb_host_cache_fill(CPUState *cpu, vaddr pc,
                                     uint64_t cs_base, uint32_t flags,
                                     uint32_t cflags);

/**
 * tb_host_cache_made: a TB was made, which tb_host_cache_wants()
 * @cpu: this vCPU
 * @removals: tb_ctx.tb_removals from before it was made
 * @pc: where it begins
 * @tb: the TB
 */
void tb_host_cache_made(CPUState *cpu, unsigned long removals, vaddr pc,
                        const TranslationBlock *tb);

/**
 * tb_host_cache_update: let the stub find blocks, or none
 * @cpu: this vCPU, which is in no TB
 * @cflags: curr_cflags()
 *
 * The stub does not ask for breakpoints, single steps or logging: while there
 * are any it finds nothing.  All of these are changed while the vCPU is
 * stopped, or by itself in a TB that returns to the main loop, or without a
 * promise as to when they begin.
 */
void tb_host_cache_update(CPUState *cpu, uint32_t cflags);

/* Forget all TBs; no vCPU runs. */
void tb_host_cache_clear(CPUState *cpu);

/* Where the guest code of @tb is, or 0 if that is nowhere to be found. */
uintptr_t tb_host_cache_address(const TranslationBlock *tb);

/**
 * tb_host_cache_forget: a TB has left the hash table
 * @cpu: any vCPU
 * @host: tb_host_cache_address() of it
 *
 * Called after tb_ctx.tb_removals was counted up.
 */
void tb_host_cache_forget(CPUState *cpu, uintptr_t host);

#endif /* !CONFIG_USER_ONLY */

#endif /* ACCEL_TCG_TB_HOST_CACHE_H */
