/*
 * Finding the next translation block without leaving translated code
 *
 * Copyright (c) 2026 The sysqcache authors
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "tcg/tcg.h"
#include "tcg/helper-info.h"
#include "tcg/tcg-op-common.h"
#include "tcg/tb-lookup.h"
#include "exec/helper-gen-common.h"
#include "tcg-internal.h"

const TBLookupState *tb_lookup_state;
bool tb_lookup_stub;

const void *tcg_lookup_usual(void)
{
    return helper_info_lookup_tb_ptr_at.func;
}

void tcg_lookup_stub_set(const void *stub)
{
    helper_info_lookup_tb_ptr_at.func = (void *)stub;
    tb_lookup_stub = true;
}
