/*
 * Finding the next translation block without leaving translated code
 *
 * Copyright (c) 2026 The sysqcache authors
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef TCG_TB_LOOKUP_H
#define TCG_TB_LOOKUP_H

/*
 * A block that ends with a jump to an address that it does not know, or to
 * another page, calls a stub, which the backend writes beside the prologue.
 * The stub reads what a block depends on from env, asks the TLB which memory
 * of the host the code is in, and looks that up in a cache of the vCPU's.  A
 * flush of the TLB leaves this cache alone, because what virtual addresses
 * lead to is no part of it.  Whatever the stub does not know, and whatever is
 * rare, it leaves to helper_lookup_tb_ptr().
 */

#define TB_HOST_CACHE_BITS 14
#define TB_HOST_CACHE_SIZE (1 << TB_HOST_CACHE_BITS)
/* An odd number; the upper bits of the product are the hash. */
#define TB_HOST_CACHE_FACTOR 0x9e3779b1u

/*
 * A TB found by the host's address of its code.  Written by the vCPU's thread,
 * but for @host, which any thread sets to 0: atomic.
 *
 * The stub finds the table in a slot of the vCPU's table of calls, which lies
 * at a constant distance from env, and in another one the mask for offsets in
 * it: (entries - 1) * sizeof(TBHostEntry).
 */
typedef struct TBHostEntry {
    uintptr_t host;             /* 0: there is none */
    uint64_t key;               /* see tb_host_key() */
    uint64_t cs_base;
    const void *code;           /* of the TB, executable */
} TBHostEntry;

/*
 * How a target's cpu_get_tb_cpu_state() can be had with a few loads from env,
 * provided that what comes out has @required in @required_mask of the flags.
 * Offsets in env; -1: none.
 */
typedef struct TBLookupState {
    int pc;                     /* 64 bits */
    int flags;                  /* 32 bits */
    int more_flags;             /* 32 bits, to be ORed ... */
    uint32_t more_flags_mask;   /* ... of which these */
    int cs_base;                /* 64 bits; none: it is 0 */
    int more_base;              /* 32 bits, to be ORed into cs_base ... */
    int more_base_shift;        /* ... shifted left */
    uint32_t required_mask;
    uint32_t required;
} TBLookupState;

/* What the stub reads; NULL: no stub.  Set before the prologue is made. */
extern const TBLookupState *tb_lookup_state;

/* Whether there is a stub; set with the prologue. */
extern bool tb_lookup_stub;

/* Of the target, if it has one. */
extern const TBLookupState target_tb_lookup_state;

/**
 * tb_host_key: what has to be equal besides the code's address and cs_base
 * @flags: of the TB
 * @mmu_ofs: the mmu index for fetching code, times sizeof(CPUTLBDescFast)
 * @stub: whether what the stub reads of env is what makes these flags.  Others
 *        are for C code alone: @mmu_ofs of a block is never odd.
 */
static inline uint64_t tb_host_key(uint32_t flags, uint32_t mmu_ofs, bool stub)
{
    return flags | (uint64_t)(mmu_ofs | !stub) << 32;
}

/* Index of the entry for code at @host: what the stub computes. */
static inline size_t tb_host_index(uintptr_t host)
{
    return (uint32_t)host * TB_HOST_CACHE_FACTOR >> (32 - TB_HOST_CACHE_BITS);
}

#endif /* TCG_TB_LOOKUP_H */
