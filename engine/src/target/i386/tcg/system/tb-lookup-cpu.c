/*
 * What x86 blocks depend on, read with a few loads
 *
 * Copyright (c) 2026 The sysqcache authors
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "cpu.h"
#include "tcg/tb-lookup.h"

#ifdef TARGET_X86_64
/* cpu_get_tb_cpu_state(), for 64-bit code, where no base is added. */
const TBLookupState target_tb_lookup_state = {
    .pc = offsetof(CPUX86State, eip),
    .flags = offsetof(CPUX86State, hflags),
    .more_flags = offsetof(CPUX86State, eflags),
    .more_flags_mask = IOPL_MASK | TF_MASK | RF_MASK | VM_MASK | AC_MASK,
    .cs_base = -1,
    .more_base = -1,
    .required_mask = HF_CS64_MASK,
    .required = HF_CS64_MASK,
};
#endif
