/*
 * What AArch64 blocks depend on, read with a few loads
 *
 * Copyright (c) 2026 The sysqcache authors
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "cpu.h"
#include "tcg/tb-lookup.h"

#ifdef TARGET_AARCH64
/*
 * cpu_get_tb_cpu_state(), for AArch64 without an active single step.  Where
 * there is no BTI, BTYPE is 0; were it not, nothing would be found.
 */
const TBLookupState target_tb_lookup_state = {
    .pc = offsetof(CPUARMState, pc),
    .flags = offsetof(CPUARMState, hflags.flags),
    .more_flags = -1,
    .cs_base = offsetof(CPUARMState, hflags.flags2),
    .more_base = offsetof(CPUARMState, btype),
    .more_base_shift = R_TBFLAG_A64_BTYPE_SHIFT,
    .required_mask = R_TBFLAG_ANY_AARCH64_STATE_MASK |
                     R_TBFLAG_ANY_SS_ACTIVE_MASK,
    .required = R_TBFLAG_ANY_AARCH64_STATE_MASK,
};
#endif
