/*
 * Fuzzing the translation cache: a pack and what is looked up in it
 *
 * Copyright (c) 2026 The sysqcache authors
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * An input is a FuzzScript, the header of a pack without its text, blocks
 * and an index.  What a file has between them is zero and left out.  A pack
 * as it is in a store is an input as well.
 */

#ifndef FUZZ_PACK_INPUT_H
#define FUZZ_PACK_INPUT_H

#include "qemu/osdep.h"
#include "accel/tcg/tb-cache-find.h"

#define FUZZ_MAX_FILE   (256 * KiB)
#define FUZZ_LOOKUPS    4
#define FUZZ_CHANGES    2

/* What becomes another while a block is looked for. */
enum {
    FUZZ_NOTHING,
    FUZZ_KEY,                   /* field @at of the key */
    FUZZ_BYTE,                  /* of the guest's code */
    FUZZ_WORD,                  /* of the guest's code */
    FUZZ_BLOCK,                 /* four bytes of the block in the file */
    FUZZ_INDEX,                 /* four bytes of the index in the file */
    FUZZ_TRUNCATE,              /* the file, to @at pieces of 16 bytes */
    FUZZ_WHATS,
};

/* Before the lookup, when page 2 is wanted, or so many reads later. */
#define FUZZ_BEFORE     0
#define FUZZ_AT_PAGE2   255

typedef struct FuzzChange {
    uint8_t what;
    uint8_t when;
    uint16_t at;
    uint32_t value;
} FuzzChange;

/* In the number of packs: look in those that a directory lists. */
#define FUZZ_DIRECTORY  0x80u

#define FUZZ_EXACTLY    1u      /* tb_cache_find_exactly() */
#define FUZZ_PARALLEL   2u      /* with CF_PARALLEL */
#define FUZZ_ANY        4u      /* exactly: only for any context */
#define FUZZ_BEHIND     8u      /* the block behind the last one */
#define FUZZ_NO_PAGE2   16u     /* it is not RAM */
#define FUZZ_LEAVE      32u     /* fetching it ends with an exception */

typedef struct FuzzLookup {
    uint16_t block;             /* by the entries of the index */
    uint16_t how;
    FuzzChange change[FUZZ_CHANGES];
} FuzzLookup;

typedef struct FuzzScript {
    uint32_t blocks_size;       /* of what is stored of them */
    int16_t longer;             /* the file is, than its header says */
    uint8_t packs;              /* how often it is mapped, modulo 3, and flag */
    uint8_t foreign;            /* another fingerprint is wanted */
    FuzzLookup lookup[FUZZ_LOOKUPS];
} FuzzScript;

#define FUZZ_TEXT       offsetof(TbCachePackHeader, text)
#define FUZZ_LEAST      (sizeof(FuzzScript) + FUZZ_TEXT + sizeof(uint64_t))

typedef struct FuzzInput {
    FuzzScript script;
    TbCachePackHeader header;   /* without text */
    const uint8_t *blocks;
    size_t blocks_size;
    const uint8_t *index;
    size_t index_size;
} FuzzInput;

/* What is too long for @data is left out, from its end. */
bool fuzz_parse(FuzzInput *in, const uint8_t *data, size_t size);

/* libFuzzer's own changes of any bytes. */
size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t max);

#endif /* FUZZ_PACK_INPUT_H */
