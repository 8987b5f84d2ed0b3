/*
 * Persistent translation cache: what decides how a block is translated
 *
 * Copyright (c) 2026 The sysqcache authors
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * A block's own key holds what differs from block to block (see tb_cmp()).
 * What is the same for a whole run stands here: it must name everything
 * that the translator, the optimizer and the backend look at beyond that.
 */

#include "qemu/osdep.h"
#include <link.h>
#include "qemu/cacheinfo.h"
#include "exec/cpu-all.h"
#include "exec/replay-core.h"
#include "exec/translation-block.h"
#include "hw/core/cpu.h"
#include "host/cpuinfo.h"
#include "system/cpu-timers.h"
#include "system/tcg.h"
#include "tcg/tcg.h"
#include "tb-cache-internal.h"

/* Targets that can be keyed have their own. */
__attribute__((weak))
const char *tb_cache_fingerprint_cpu(CPUState *cpu, GString *text)
{
    return "this target's CPU features can't be keyed yet";
}

static bool find_build_id(const uint8_t *p, size_t size, GString *text)
{
    while (size >= sizeof(ElfW(Nhdr))) {
        const ElfW(Nhdr) *n = (const void *)p;
        size_t desc = sizeof(*n) + ROUND_UP(n->n_namesz, 4);
        size_t total = desc + ROUND_UP(n->n_descsz, 4);

        if (total > size) {
            return false;
        }
        if (n->n_type == NT_GNU_BUILD_ID && n->n_namesz == 4 &&
            !memcmp(n + 1, "GNU", 4)) {
            g_string_append(text, "engine=");
            for (size_t i = 0; i < n->n_descsz; i++) {
                g_string_append_printf(text, "%02x", p[desc + i]);
            }
            g_string_append_c(text, '\n');
            return true;
        }
        p += total;
        size -= total;
    }
    return false;
}

/* The first object is the program itself. */
static int first_object(struct dl_phdr_info *info, size_t size, void *opaque)
{
    for (int i = 0; i < info->dlpi_phnum; i++) {
        const ElfW(Phdr) *ph = &info->dlpi_phdr[i];

        if (ph->p_type == PT_NOTE &&
            find_build_id((const uint8_t *)info->dlpi_addr + ph->p_vaddr,
                          ph->p_memsz, opaque)) {
            return 1;
        }
    }
    return -1;
}

const char *tb_cache_fingerprint_vcpu(CPUState *cpu, GString *text)
{
    g_string_append_printf(text, "cpu=%s\n", object_get_typename(OBJECT(cpu)));
    return tb_cache_fingerprint_cpu(cpu, text);
}

const char *tb_cache_fingerprint(GString *text)
{
    const char *reason;
    CPUState *cpu;

    if (!tcg_enabled()) {
        return "the accelerator is not TCG";
    }
    if (!TCG_TARGET_CALL_TABLE) {
        return "this host's backend can't make position-independent blocks";
    }
    if (icount_enabled() || replay_mode != REPLAY_MODE_NONE) {
        return "blocks can't be kept with icount or record/replay";
    }
    if (tcg_call_table_used() > TCG_CALL_SLOTS) {
        return "this build has more helpers than the call table has slots";
    }
    if (dl_iterate_phdr(first_object, text) != 1) {
        return "this build has no build-id";
    }
    g_string_append_printf(text, "target=%s\n", target_name());
    g_string_append_printf(text, "page-bits=%d\n", TARGET_PAGE_BITS);
    g_string_append_printf(text, "tb-size=%zu\n", sizeof(TranslationBlock));
    g_string_append_printf(text, "icache-line=%d\n", qemu_icache_linesize);
    g_string_append_printf(text, "host-cpu=0x%x\n", cpuinfo);
    g_string_append_printf(text, "splitwx=%d\n", tcg_splitwx_diff != 0);
    CPU_FOREACH(cpu) {
        g_autoptr(GString) one = g_string_new(NULL);

        reason = tb_cache_fingerprint_vcpu(cpu, one);
        if (reason) {
            return reason;
        }
        if (cpu == first_cpu) {
            g_string_append(text, one->str);
        } else if (!g_str_has_suffix(text->str, one->str)) {
            return "the vCPUs differ from each other";
        }
    }
    return NULL;
}
