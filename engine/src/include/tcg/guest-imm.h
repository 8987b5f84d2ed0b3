/*
 * Immediates of the guest that a block does not depend on
 *
 * Copyright (c) 2026 The sysqcache authors
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef TCG_GUEST_IMM_H
#define TCG_GUEST_IMM_H

/*
 * A kernel that chooses its own address at boot differs from one boot to
 * the next in 32-bit immediates, and in nothing else.  The front end may
 * declare such an immediate opaque: then no optimization looks at its
 * value, the backend emits it as one 32-bit immediate of the host, and the
 * block fits any guest code that differs from its own in the immediate
 * alone, once the new value is copied over.
 *
 * Whether an immediate is opaque depends on its value, so that small
 * constants are still folded.  A block may only be used for values that
 * would have been opaque as well.
 */
#define TCG_MAX_GUEST_IMMS  48
#define TCG_GUEST_IMM_NONE  0xffff

typedef struct TCGGuestImm {
    uint16_t guest;             /* offset from the first guest byte */
    uint16_t host;              /* offset in the host's code, or NONE */
    bool relative;              /* a distance, else an address */
} TCGGuestImm;

/*
 * Addresses: what sign-extends to the top 2 GiB, but not to the last
 * 16 MiB, where small negative numbers are.  Distances: farther than the
 * text of most programs is long.
 */
static inline bool tcg_guest_imm_opaque(int32_t val, bool relative)
{
    if (relative) {
        return val >= 64 * 1024 * 1024 || val < -64 * 1024 * 1024;
    }
    return val < -16 * 1024 * 1024;
}

#endif /* TCG_GUEST_IMM_H */
