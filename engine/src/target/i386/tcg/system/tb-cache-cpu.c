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
 * for the vendor; all else comes from the flags.  Two features tell the
 * guest that there are several vCPUs, and the translator nothing: blocks
 * serve machines with any number of them.
 */
static uint64_t topology_bits(FeatureWord word)
{
    return word == FEAT_1_EDX ? CPUID_HT
        : word == FEAT_8000_0001_ECX ? CPUID_EXT3_CMP_LEG : 0;
}

const char *tb_cache_fingerprint_cpu(CPUState *cs, GString *text)
{
    CPUX86State *env = cpu_env(cs);

    g_string_append_printf(text, "x86-vendor=%08x\n", env->cpuid_vendor1);
    g_string_append(text, "x86-features=");
    for (int i = 0; i < FEATURE_WORDS; i++) {
        g_string_append_printf(text, "%" PRIx64 ",",
                               env->features[i] & ~topology_bits(i));
    }
    g_string_append_c(text, '\n');
    return NULL;
}
