/*
 * Persistent translation cache: what the translator calls
 *
 * Copyright (c) 2026 The sysqcache authors
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef ACCEL_TCG_TB_CACHE_H
#define ACCEL_TCG_TB_CACHE_H

#include "qemu/atomic.h"
#include "exec/translation-block.h"

/* State of one request, owned by the vCPU thread that makes it. */
typedef struct TbCacheThread TbCacheThread;

/* Sizes of what a block has in the code buffer. */
typedef struct TbCacheSizes {
    int code;
    int search;
} TbCacheSizes;

#ifdef CONFIG_USER_ONLY

static inline TbCacheThread *tb_cache_begin(CPUState *cpu)
{
    return NULL;
}

static inline bool tb_cache_adopt(TbCacheThread *t, CPUState *cpu,
                                  TranslationBlock *tb, vaddr pc,
                                  const void *host_pc, TbCacheSizes *sizes)
{
    return false;
}

static inline void tb_cache_translated(TbCacheThread *t, TranslationBlock *tb,
                                       vaddr pc, int search_size)
{
}

static inline void tb_cache_end(TbCacheThread *t)
{
}

static inline void tb_cache_written(const TranslationBlock *tb, bool store)
{
}

#else

extern bool tb_cache_on;

TbCacheThread *tb_cache_begin_slow(CPUState *cpu);
void tb_cache_end_slow(TbCacheThread *t);

/**
 * tb_cache_begin: a block is wanted
 *
 * Returns NULL, at the cost of one test, where there is no cache.
 */
static inline TbCacheThread *tb_cache_begin(CPUState *cpu)
{
    return unlikely(qatomic_read(&tb_cache_on)) ? tb_cache_begin_slow(cpu)
                                                : NULL;
}

/**
 * tb_cache_adopt: look for a block and copy it to the code buffer
 * @t: the request
 * @cpu: the vCPU
 * @tb: the new block, with its key filled in
 * @pc: its guest virtual address
 * @host_pc: its guest code, as far as its first page goes
 * @sizes: set on success
 *
 * Called with the first page locked and tcg_ctx->gen_tb set.  May leave by
 * longjmp, as the translator does, when the second page can't be fetched.
 *
 * On success @tb is as after translation, both pages are locked, and true
 * is returned.  Else only the first page is locked.
 */
bool tb_cache_adopt(TbCacheThread *t, CPUState *cpu, TranslationBlock *tb,
                    vaddr pc, const void *host_pc, TbCacheSizes *sizes);

/**
 * tb_cache_translated: a block was translated after all
 *
 * Called before the jumps of @tb are reset, with its pages locked:
 * compares in verify mode, and records.
 */
void tb_cache_translated(TbCacheThread *t, TranslationBlock *tb, vaddr pc,
                         int search_size);

void tb_cache_written_slow(ram_addr_t ram, bool store);

/**
 * tb_cache_written: a write to guest memory invalidates @tb
 * @tb: the block
 * @store: by code of the guest, else by a device or a debugger
 *
 * Called with the pages of @tb locked.
 */
static inline void tb_cache_written(const TranslationBlock *tb, bool store)
{
    if (unlikely(qatomic_read(&tb_cache_on))) {
        tb_cache_written_slow(tb->page_addr[0], store);
    }
}

void tb_cache_vcpu_started_slow(CPUState *cpu);

/**
 * tb_cache_vcpu_started: a vCPU is about to run for the first time
 *
 * One that translates differently from the others, plugged in while the
 * machine runs, ends the use of the cache.
 */
static inline void tb_cache_vcpu_started(CPUState *cpu)
{
    if (unlikely(qatomic_read(&tb_cache_on))) {
        tb_cache_vcpu_started_slow(cpu);
    }
}

/** tb_cache_end: the block is linked, stop the clock */
static inline void tb_cache_end(TbCacheThread *t)
{
    if (unlikely(t)) {
        tb_cache_end_slow(t);
    }
}

#endif /* !CONFIG_USER_ONLY */

#endif /* ACCEL_TCG_TB_CACHE_H */
