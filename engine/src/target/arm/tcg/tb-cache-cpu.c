/*
 * Persistent translation cache: what the Arm translators look at
 *
 * Copyright (c) 2026 The sysqcache authors
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "cpu.h"
#include "cpregs.h"
#include "semihosting/semihost.h"
#include "accel/tcg/tb-cache-internal.h"

/*
 * What generated code has of a system register.  It finds the functions
 * behind the register by its key, when it runs: here it only matters
 * whether there are any.
 */
typedef struct SysReg {
    uint64_t resetvalue;        /* the value of a constant, else 0 */
    int64_t fieldoffset;
    uint32_t key;
    uint32_t type;
    uint32_t access;
    uint32_t nv2_redirect_offset;
    uint32_t state;
    bool accessfn;
    bool readfn;
    bool writefn;
    bool fgt;
} SysReg;

QEMU_BUILD_BUG_ON(sizeof(SysReg) != 40);

static void add_register(gpointer key, gpointer value, gpointer opaque)
{
    const ARMCPRegInfo *ri = value;
    SysReg reg = {
        .resetvalue = ri->type & ARM_CP_CONST ? ri->resetvalue : 0,
        .fieldoffset = ri->fieldoffset,
        .key = (uintptr_t)key,
        .type = ri->type,
        .access = ri->access,
        .nv2_redirect_offset = ri->nv2_redirect_offset,
        .state = ri->state,
        .accessfn = ri->accessfn,
        .readfn = ri->readfn,
        .writefn = ri->writefn,
        .fgt = ri->fgt,
    };

    g_array_append_val((GArray *)opaque, reg);
}

static int cmp_register(const void *a, const void *b)
{
    const SysReg *ra = a, *rb = b;

    return ra->key < rb->key ? -1 : ra->key > rb->key;
}

static void add_registers(ARMCPU *cpu, GString *text)
{
    g_autoptr(GArray) regs = g_array_new(false, false, sizeof(SysReg));
    g_autoptr(GChecksum) sum = g_checksum_new(G_CHECKSUM_SHA256);

    g_hash_table_foreach(cpu->cp_regs, add_register, regs);
    g_array_sort(regs, cmp_register);
    g_checksum_update(sum, (const guchar *)regs->data,
                      regs->len * sizeof(SysReg));
    g_string_append_printf(text, "arm-registers=%u:%s\n", regs->len,
                           g_checksum_get_string(sum));
}

/*
 * arm_tr_init_disas_context() and aarch64_tr_init_disas_context() take
 * these; all else comes from the flags.  The ID registers are shorter as
 * the words that they are stored in.
 */
const char *tb_cache_fingerprint_cpu(CPUState *cs, GString *text)
{
    ARMCPU *cpu = ARM_CPU(cs);
    const uint32_t *isar = (const uint32_t *)&cpu->isar;

    if (semihosting_enabled(false)) {
        return "blocks can't be kept with semihosting";
    }
    g_string_append_printf(text, "arm-features=%" PRIx64 "\n",
                           cpu->env.features);
    g_string_append(text, "arm-isar=");
    for (size_t i = 0; i < sizeof(cpu->isar) / sizeof(*isar); i++) {
        g_string_append_printf(text, "%" PRIx32 ",", isar[i]);
    }
    g_string_append_printf(text, "\narm-blocks=%u,%u\n",
                           cpu->dcz_blocksize, cpu->gm_blocksize);
    add_registers(cpu, text);
    return NULL;
}
