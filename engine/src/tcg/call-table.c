/*
 * Table of the functions that generated code calls
 *
 * Copyright (c) 2026 The sysqcache authors
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "tcg/tcg.h"
#include "tcg/helper-info.h"
#include "tcg/call-table.h"
#include "tcg-internal.h"

bool tcg_position_independent;

/* Filled by constructors, sorted and numbered by the first fill. */
static GPtrArray *helpers;
static gsize numbered;

void tcg_call_table_register(struct TCGHelperInfo *info)
{
    if (!helpers) {
        helpers = g_ptr_array_new();
    }
    g_ptr_array_add(helpers, info);
}

static gint cmp_name(gconstpointer a, gconstpointer b)
{
    const TCGHelperInfo *const *ia = a;
    const TCGHelperInfo *const *ib = b;

    return strcmp((*ia)->name, (*ib)->name);
}

/* The order of constructors is not ours to choose, so sort by name. */
static void number_helpers(void)
{
    g_ptr_array_sort(helpers, cmp_name);
    for (guint i = 0; i < helpers->len; i++) {
        TCGHelperInfo *info = g_ptr_array_index(helpers, i);
        unsigned slot = TCG_CALL_SLOT_HELPER + i;

        /* Blocks that call a helper beyond the table are not portable. */
        info->slot = slot < TCG_CALL_SLOT_HOST_MASK ? slot : TCG_CALL_SLOT_NONE;
    }
}

void tcg_call_table_fill(void **table)
{
    if (g_once_init_enter(&numbered)) {
        number_helpers();
        g_once_init_leave(&numbered, 1);
    }
    tcg_call_table_fill_fixed(table);
    for (guint i = 0; i < helpers->len; i++) {
        const TCGHelperInfo *info = g_ptr_array_index(helpers, i);

        if (info->slot != TCG_CALL_SLOT_NONE) {
            table[info->slot] = info->func;
        }
    }
}

unsigned tcg_call_table_used(void)
{
    return TCG_CALL_SLOT_HELPER + (helpers ? helpers->len : 0);
}
