/*
 * Table of the functions that generated code calls
 *
 * Copyright (c) 2026 The sysqcache authors
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef TCG_CALL_TABLE_H
#define TCG_CALL_TABLE_H

/*
 * Generated code that calls QEMU by absolute address can't move between
 * processes.  With tcg_position_independent set, a backend that defines
 * TCG_TARGET_CALL_TABLE calls through a table that lies at a constant
 * negative offset from env instead, and such code is the same in every
 * process of one build.
 *
 * The slots are numbered by the build alone: a few fixed ones, then all
 * helpers sorted by name.
 */
#define TCG_CALL_SLOTS 4096

enum {
    TCG_CALL_SLOT_NONE,         /* not in the table */
    TCG_CALL_SLOT_EXIT_TB,      /* the epilogue, return value set */
    TCG_CALL_SLOT_EPILOGUE,     /* the epilogue, returns zero */
    TCG_CALL_SLOT_LD,           /* qemu_ld slow paths, by memop size + sign */
    TCG_CALL_SLOT_ST = TCG_CALL_SLOT_LD + 16, /* qemu_st slow paths */
    TCG_CALL_SLOT_HELPER = TCG_CALL_SLOT_ST + 16,

    /* No functions: where the stub of tcg/tb-lookup.h finds its cache. */
    TCG_CALL_SLOT_HOST_MASK = TCG_CALL_SLOTS - 2,
    TCG_CALL_SLOT_HOST_TABLE,
};

struct TCGHelperInfo;

/* Set before the first block is translated; never cleared. */
extern bool tcg_position_independent;

/**
 * tcg_call_table_register: make a helper known
 * @info: its description
 *
 * Called by constructors, before main().
 */
void tcg_call_table_register(struct TCGHelperInfo *info);

/**
 * tcg_call_table_fill: write the addresses of this process
 * @table: TCG_CALL_SLOTS pointers of a vCPU
 */
void tcg_call_table_fill(void **table);

/**
 * tcg_call_table_used: how many slots this build numbers
 */
unsigned tcg_call_table_used(void);

#endif /* TCG_CALL_TABLE_H */
