/*
 * hw/boards.h, as far as the fuzzed files need it
 *
 * Copyright (c) 2026 The sysqcache authors
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef FUZZ_HW_BOARDS_H
#define FUZZ_HW_BOARDS_H

#include "exec/memory.h"

typedef struct MachineState {
    MemoryRegion *ram;
} MachineState;

extern MachineState *current_machine;

#endif
