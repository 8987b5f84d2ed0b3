/*
 * What translation blocks were made of, and whether that is still there
 *
 * Copyright (c) 2026 The sysqcache authors
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * A block remembers a hash of the guest code that it was made of.  While no
 * vCPU runs, an audit compares that with what is in memory: whatever changes
 * code has to have invalidated the block by then.
 */

#define XXH_INLINE_ALL
#include "qemu/osdep.h"
#include <xxhash.h>
#include "qemu/main-loop.h"
#include "qemu/rcu.h"
#include "qapi/error.h"
#include "qapi/qapi-commands-tb-audit.h"
#include "exec/cpu-all.h"
#include "exec/memory.h"
#include "hw/core/cpu.h"
#include "tcg/tcg.h"
#include "tb-audit.h"
#include "tb-internal.h"

#define MAX_LOG 16

bool tb_audit_on;

/* What the translator reads, where nobody else wants to know. */
static __thread uint8_t *bytes;

/* Of guest code that lies in two pieces, the second of which may be empty. */
static uint64_t code_hash(const uint8_t *first, size_t n, const uint8_t *second,
                          size_t m)
{
    uint64_t h = XXH3_64bits(first, n);

    return (m ? XXH3_64bits_withSeed(second, m, h) : h) | 1;
}

/* How much of @tb lies in its first page. */
static size_t first_part(const TranslationBlock *tb)
{
    return MIN(tb->size, -(tb_page_addr0(tb) | TARGET_PAGE_MASK));
}

void tb_audit_begin_slow(TranslationBlock *tb)
{
    if (!(tb_cflags(tb) & CF_PCREL)) {
        return;
    }
    tb->guest_hash = 0;
    if (!tcg_ctx->guest_bytes) {
        if (!bytes) {
            bytes = g_malloc(TARGET_PAGE_SIZE);
        }
        tcg_ctx->guest_bytes = bytes;
        tcg_ctx->guest_bytes_len = 0;
    }
}

void tb_audit_note(TranslationBlock *tb, const uint8_t *code)
{
    size_t n = first_part(tb);

    tb->guest_hash = code_hash(code, n, code + n, tb->size - n);
}

void tb_audit_translated_slow(TranslationBlock *tb)
{
    if (tb_cflags(tb) & CF_PCREL && tcg_ctx->guest_bytes &&
        tcg_ctx->guest_bytes_len >= tb->size) {
        tb_audit_note(tb, tcg_ctx->guest_bytes);
    }
    if (bytes && tcg_ctx->guest_bytes == bytes) {
        tcg_ctx->guest_bytes = NULL;
    }
}

static bool is_ram(ram_addr_t addr)
{
    ram_addr_t offset;
    MemoryRegion *mr;

    mr = memory_region_from_host(qemu_map_ram_ptr(NULL, addr), &offset);
    return mr && memory_region_is_ram(mr);
}

bool tb_audit_stale(const TranslationBlock *tb)
{
    size_t n = first_part(tb);
    const uint8_t *first, *second = NULL;

    RCU_READ_LOCK_GUARD();
    first = qemu_map_ram_ptr(NULL, tb_page_addr0(tb));
    if (n < tb->size) {
        second = qemu_map_ram_ptr(NULL, tb_page_addr1(tb) & TARGET_PAGE_MASK);
    }
    return tb->guest_hash != code_hash(first, n, second, tb->size - n);
}

static void log_stale(TbAudit *audit, const TranslationBlock *tb)
{
    const uint8_t *code = qemu_map_ram_ptr(NULL, tb_page_addr0(tb));
    g_autoptr(GString) s = g_string_new(NULL);

    if (audit->stale > MAX_LOG) {
        return;
    }
    g_string_printf(s, "ram 0x%" PRIx64 ", %u bytes, flags 0x%x, cflags 0x%x; "
                    "memory", (uint64_t)tb_page_addr0(tb), tb->size, tb->flags,
                    tb_cflags(tb));
    for (size_t i = 0; i < MIN(first_part(tb), 32); i++) {
        g_string_append_printf(s, " %02x", code[i]);
    }
    QAPI_LIST_PREPEND(audit->log, g_strdup(s->str));
}

static gboolean audit_tb(gpointer key, gpointer value, gpointer opaque)
{
    const TranslationBlock *tb = value;
    TbAudit *audit = opaque;

    if (tb_cflags(tb) & CF_INVALID || tb_page_addr0(tb) == -1) {
        return false;
    }
    audit->blocks++;
    if (!tb_audit_known(tb)) {
        audit->unknown++;
    } else if (tb_audit_stale(tb)) {
        /* Programming a flash device invalidates nothing. */
        if (is_ram(tb_page_addr0(tb))) {
            audit->stale++;
            log_stale(audit, tb);
        } else {
            audit->rom++;
        }
    }
    return false;
}

static void audit_all(CPUState *cpu, run_on_cpu_data data)
{
    bql_unlock();
    start_exclusive();
    WITH_RCU_READ_LOCK_GUARD() {
        tcg_tb_foreach(audit_tb, data.host_ptr);
    }
    end_exclusive();
    bql_lock();
}

TbAudit *qmp_x_tb_audit(Error **errp)
{
    TbAudit *audit;

    if (!first_cpu) {
        /* A machine without vCPUs has no blocks. */
        return g_new0(TbAudit, 1);
    }
    if (!tb_audit_on && !tcg_cflags_has(first_cpu, CF_PARALLEL_BIT)) {
        error_setg(errp, "with one vCPU blocks are not audited unless the "
                   "machine is started with -accel tcg,x-audit=on");
        return NULL;
    }
    audit = g_new0(TbAudit, 1);
    run_on_cpu(first_cpu, audit_all, RUN_ON_CPU_HOST_PTR(audit));
    return audit;
}
