/*
 * Files of the persistent translation cache
 *
 * Copyright (c) 2026 The sysqcache authors
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * All fields are little-endian, all checksums XXH3-64 with seed 0.
 */

#ifndef TB_CACHE_FORMAT_H
#define TB_CACHE_FORMAT_H

#define TB_CACHE_HEADER_SIZE        4096
#define TB_CACHE_VERSION            2
#define TB_CACHE_ALIGN              16
/* So many packs does an engine map, and the store name in a boot set. */
#define TB_CACHE_MAX_PACKS          1024
#define TB_CACHE_JOURNAL_MAGIC      "SYSQJRNL"
#define TB_CACHE_PACK_MAGIC         "SYSQPACK"
#define TB_CACHE_RECORD_MAGIC       0x4c425153u /* "SQBL" */
#define TB_CACHE_RECORD_BLOCK       1
#define TB_CACHE_RECORD_RAM_MAP     2
#define TB_CACHE_RECORD_DEAD        3
#define TB_CACHE_RECORD_PACK        4
#define TB_CACHE_RECORD_ADOPTED     5
#define TB_CACHE_BLOCK_TWO_PAGES    1u
#define TB_CACHE_BLOCK_SHORT_KEY    2u  /* an immediate is in the prefix */
/* The translator never asked for CF_PARALLEL, which cflags then lacks. */
#define TB_CACHE_BLOCK_ANY_CONTEXT  4u
/* A buffer of the translator was full: another run may have got further. */
#define TB_CACHE_BLOCK_LIMITED      8u
#define TB_CACHE_BLOCK_IMMS_SHIFT   8
#define TB_CACHE_BLOCK_IMMS_MASK    (0xffu << TB_CACHE_BLOCK_IMMS_SHIFT)
#define TB_CACHE_BLOCK_KNOWN        (TB_CACHE_BLOCK_IMMS_MASK | 15u)
#define TB_CACHE_MAX_IMMS           48
#define TB_CACHE_NO_JUMP            0xffff
/* As in include/exec/translation-block.h. */
#define TB_CACHE_MAX_INSNS          512
#define TB_CACHE_CF_PARALLEL        0x8000u
#define TB_CACHE_FINGERPRINT_SIZE   32

/*
 * A translation block, the same in journals and packs.  It is followed by
 * the guest's code, the host's code, the search data, the immediates that
 * the block does not depend on, and zeros up to a multiple of
 * TB_CACHE_ALIGN.
 */
typedef struct TbCacheBlock {
    uint64_t checksum;          /* of all that follows, without the zeros */
    uint64_t cs_base;
    uint32_t flags;
    uint32_t cflags;
    uint16_t page_offset;
    uint16_t guest_size;
    uint16_t icount;
    uint16_t search_size;
    uint32_t code_size;
    uint16_t jmp_reset_offset[2];
    uint16_t jmp_insn_offset[2];
    uint32_t block_flags;
    uint8_t data[];
} TbCacheBlock;

QEMU_BUILD_BUG_ON(sizeof(TbCacheBlock) != 48);

typedef struct TbCacheRecord {
    uint32_t magic;
    uint32_t total_size;        /* header and payload, multiple of ALIGN */
    uint16_t type;
    uint16_t vcpu;
    uint32_t payload_size;
    uint64_t pc;
    uint64_t ram0;
    uint64_t ram1;
    uint64_t checksum;          /* of the fields above */
} TbCacheRecord;

QEMU_BUILD_BUG_ON(sizeof(TbCacheRecord) != 48);

/* Payload of TB_CACHE_RECORD_DEAD: a place where code rewrites itself. */
typedef struct TbCacheDead {
    uint64_t ram;
    uint32_t size;
    uint32_t changes;
} TbCacheDead;

QEMU_BUILD_BUG_ON(sizeof(TbCacheDead) != 16);

/* Payload of TB_CACHE_RECORD_PACK: a pack is mapped. */
typedef struct TbCachePackName {
    uint32_t number;            /* its place in the engine's list */
    uint32_t reserved;
    char name[72];              /* of the file, without ".pack" */
} TbCachePackName;

QEMU_BUILD_BUG_ON(sizeof(TbCachePackName) != 80);

/*
 * Payload of TB_CACHE_RECORD_ADOPTED: these, each the first use of a block
 * of a pack in the run.
 */
typedef struct TbCacheUse {
    uint32_t position;          /* of the block / ALIGN, as in the index */
    uint16_t pack;
    uint16_t vcpu;
    uint64_t ram0;
} TbCacheUse;

QEMU_BUILD_BUG_ON(sizeof(TbCacheUse) != 16);

typedef struct TbCacheJournalHeader {
    char magic[8];
    uint32_t version;
    uint32_t header_size;
    uint8_t fingerprint[TB_CACHE_FINGERPRINT_SIZE];
    uint32_t page_bits;
    uint32_t text_size;
    uint64_t start_ns;
    uint32_t pid;
    uint32_t reserved;
    char text[4016];
    uint64_t checksum;
} TbCacheJournalHeader;

QEMU_BUILD_BUG_ON(sizeof(TbCacheJournalHeader) != TB_CACHE_HEADER_SIZE);

typedef struct TbCachePackHeader {
    char magic[8];
    uint32_t version;
    uint32_t header_size;
    uint8_t fingerprint[TB_CACHE_FINGERPRINT_SIZE];
    uint32_t page_bits;
    uint32_t text_size;
    uint64_t file_size;
    uint64_t block_count;
    uint64_t slot_count;
    uint64_t index_entries;
    uint64_t index_offset;
    uint64_t blocks_offset;
    uint64_t blocks_size;
    uint32_t flags_any;         /* of all blocks, ored; both 0: not known */
    uint32_t flags_all;         /* of all blocks, anded */
    uint64_t seed;              /* of the index's hash */
    char text[3960];
    uint64_t checksum;
} TbCachePackHeader;

QEMU_BUILD_BUG_ON(sizeof(TbCachePackHeader) != TB_CACHE_HEADER_SIZE);

typedef struct TbCacheIndexEntry {
    uint64_t prefix;            /* first bytes of the guest's code */
    uint32_t position;          /* of the block / ALIGN; 0: empty entry */
    uint16_t page_offset;       /* of the block, and the flags below */
    uint16_t tag;
} TbCacheIndexEntry;

QEMU_BUILD_BUG_ON(sizeof(TbCacheIndexEntry) != 16);

/* Files of before have the size of the guest's code there. */
#define TB_CACHE_INDEX_TOLD     0x8000u
#define TB_CACHE_INDEX_LONG     0x1000u /* the key has TB_CACHE_PREFIX bytes */

/*
 * A 32-bit immediate of the guest that may have another value, see
 * tcg/guest-imm.h.  Sorted by where it is in the guest's code.
 */
typedef struct TbCacheImm {
    uint16_t guest;             /* offset; the top bit: a distance */
    uint16_t host;              /* offset in the host's code */
} TbCacheImm;

#define TB_CACHE_IMM_RELATIVE   0x8000u

QEMU_BUILD_BUG_ON(sizeof(TbCacheImm) != 4);

/*
 * Blocks at least this long are indexed by this many bytes, unless an
 * immediate of the above kind begins among them.
 */
#define TB_CACHE_PREFIX     8

/*
 * The file of guest memory to touch is an array of these, the first of
 * which is the magic.  Pages have 4 KiB, whatever the guest's have, and
 * count from the beginning of the machine's RAM.
 */
typedef struct TbCacheTouched {
    uint32_t page;              /* the first */
    uint32_t pages;             /* how many; with WRITTEN, to be copied */
} TbCacheTouched;

#define TB_CACHE_TOUCHED_MAGIC   "sqctouch"
#define TB_CACHE_TOUCHED_BITS    12
#define TB_CACHE_TOUCHED_WRITTEN 0x80000000u

QEMU_BUILD_BUG_ON(sizeof(TbCacheTouched) != 8);

static inline uint64_t tb_cache_mix(uint64_t x)
{
    x ^= x >> 32;
    x *= 0x9e3779b97f4a7c15ull;
    x ^= x >> 29;
    return x;
}

/*
 * Each pack has a seed that no guest knows, so that none can make blocks
 * which meet in one place of an index.
 */
static inline uint64_t tb_cache_hash(uint64_t seed, uint16_t page_offset,
                                     bool is_long, uint64_t prefix,
                                     uint32_t flags, uint32_t cflags,
                                     uint64_t cs_base)
{
    uint64_t turned = seed << 32 | seed >> 32;
    uint64_t h;

    h = tb_cache_mix(seed ^ (page_offset | (uint64_t)is_long << 16));
    h = tb_cache_mix(h ^ prefix);
    h = tb_cache_mix(h ^ turned ^ ((uint64_t)flags << 32 | cflags));
    h = tb_cache_mix(h ^ cs_base);
    return tb_cache_mix(h ^ seed);
}

#endif /* TB_CACHE_FORMAT_H */
