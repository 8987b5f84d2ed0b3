/*
 * Persistent translation cache: what the RISC-V translator looks at
 *
 * Copyright (c) 2026 The sysqcache authors
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "cpu.h"
#include "semihosting/semihost.h"
#include "accel/tcg/tb-cache-internal.h"

/*
 * riscv_tr_init_disas_context() takes these; all else comes from the flags.
 * misa is not among the flags, and decides what is decoded.  The translator
 * of ebreak looks at the instructions around it, in the block or not, if
 * there is semihosting.
 */
const char *tb_cache_fingerprint_cpu(CPUState *cs, GString *text)
{
    RISCVCPU *cpu = RISCV_CPU(cs);
    CPURISCVState *env = &cpu->env;
    const uint8_t *cfg = (const uint8_t *)&cpu->cfg;

    if (semihosting_enabled(false)) {
        return "blocks can't be kept with semihosting";
    }
    if (cpu->cfg.misa_w) {
        return "blocks can't be kept while the guest can write misa";
    }
    g_string_append_printf(text, "riscv-misa=%x,%x\n", env->misa_ext,
                           RISCV_CPU_GET_CLASS(cs)->misa_mxl_max);
    g_string_append_printf(text, "riscv-privileged=%x\n",
                           (unsigned)env->priv_ver);
    g_string_append(text, "riscv-cfg=");
    for (size_t i = 0; i < sizeof(cpu->cfg); i++) {
        g_string_append_printf(text, "%02x", cfg[i]);
    }
    g_string_append_c(text, '\n');
    return NULL;
}
