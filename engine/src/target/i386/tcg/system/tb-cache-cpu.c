/*
 * Persistent translation cache: what the x86 translator looks at
 *
 * Copyright (c) 2026 The sysqcache authors
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "cpu.h"
#include "accel/tcg/tb-cache-internal.h"

/*
 * i386_tr_init_disas_context() copies feature words, and the decoder asks
 * for the vendor; all else comes from the flags.
 */
const char *tb_cache_fingerprint_cpu(CPUState *cs, GString *text)
{
    CPUX86State *env = cpu_env(cs);

    g_string_append_printf(text, "x86-vendor=%08x\n", env->cpuid_vendor1);
    g_string_append(text, "x86-features=");
    for (int i = 0; i < FEATURE_WORDS; i++) {
        g_string_append_printf(text, "%" PRIx64 ",", env->features[i]);
    }
    g_string_append_c(text, '\n');
    return NULL;
}
