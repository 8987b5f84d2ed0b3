/*
 * Persistent translation cache: shared by its own files
 *
 * Copyright (c) 2026 The sysqcache authors
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef ACCEL_TCG_TB_CACHE_INTERNAL_H
#define ACCEL_TCG_TB_CACHE_INTERNAL_H

#include "qemu/bitmap.h"
#include "qemu/queue.h"
#include "qemu/units.h"
#include "qemu/thread.h"
#include "qom/object.h"
#include "qapi/qapi-types-qom.h"
#include "qapi/qapi-types-tb-cache.h"
#include "tb-cache-format.h"
#include "tb-cache.h"

#define TYPE_TB_CACHE "tb-cache"
OBJECT_DECLARE_SIMPLE_TYPE(TbCache, TB_CACHE)

#define TB_CACHE_MAX_PACKS      64
#define TB_CACHE_BUFFER_SIZE    (256 * KiB)
#define TB_CACHE_MAX_GUEST      4096
#define TB_CACHE_MAX_BLOCK      (96 * KiB)
#define TB_CACHE_MAX_LOG        16

/* First uses of blocks that a thread buffers, before the header's room. */
#define TB_CACHE_MAX_USES       2048
#define TB_CACHE_USES_HEADER    (sizeof(TbCacheRecord) / sizeof(TbCacheUse))
QEMU_BUILD_BUG_ON(sizeof(TbCacheRecord) % sizeof(TbCacheUse));

/*
 * How many recorded blocks are remembered, to record each only once: most
 * that come again do so soon, and every machine pays for this table.
 */
#define TB_CACHE_SEEN_BITS      14

/* Pages of a pack are populated in windows of this size, on first use. */
#define TB_CACHE_WINDOW_BITS    20

/* An immutable file of blocks, mapped for as long as QEMU lives. */
typedef struct TbCachePackFile {
    char *path;
    const uint8_t *base;
    size_t size;
    const TbCacheIndexEntry *index;
    uint64_t slot_count;
    uint64_t index_entries;
    uint64_t blocks_end;
    uint64_t blocks;
    const char *status;
    uint64_t open_us;
    uint32_t number;            /* in TbCache.packs */
    uint32_t flags_clear;       /* flags that none of its blocks has */
    uint32_t flags_set;         /* flags that all of its blocks have */
    unsigned long *windows;     /* bitmap of populated windows */
    unsigned long *used;        /* bitmap by tb_cache_use_bit, or NULL */
} TbCachePackFile;

struct TbCacheThread {
    /* Counters are written by their thread alone, and read at any time. */
    uint64_t requested;
    uint64_t adopted;
    uint64_t translated;
    uint64_t verified;
    uint64_t mismatches;
    uint64_t verify_prefix;
    uint64_t recorded;
    uint64_t adopt_cycles;
    uint64_t miss_cycles;
    uint64_t translate_cycles;
    TbCacheMisses misses;
    TbCacheRejects rejected;
    TbCacheUnrecorded unrecorded;

    /* The request in progress. */
    int64_t start;              /* cycles */
    int64_t lookup;             /* cycles that a lookup in vain took */
    uint64_t *miss;             /* counter of the reason, if missed */
    const TbCacheBlock *hit;    /* to be verified */
    TbCachePackFile *pack;      /* where a block was found */
    uint32_t position;
    uint32_t behind[TB_CACHE_MAX_PACKS]; /* what was found last, or 0 */
    bool did_adopt;
    bool cacheable;
    bool full;                  /* a buffer has to be written out */
    CPUState *cpu;
    int vcpu;
    const uint8_t *page2;       /* guest code on the second page */
    bool page2_tried;

    /* The code buffer is touched, or about to be, below this. */
    uint8_t *prefaulted;

    /* The bytes that the translator read, see translator_ld. */
    uint8_t guest[TB_CACHE_MAX_GUEST + 64];

    /* Records on their way to the journal; @lock is almost never waited for. */
    QemuMutex lock;
    uint8_t *buffer;
    size_t fill;
    unsigned buffered;          /* records in @buffer */

    /*
     * First uses of blocks on their way to the journal: the thread alone
     * appends, without a lock, what is below @n_uses_written is in the
     * journal, and the record's header is put in the room right before
     * what is to be written.
     */
    unsigned n_uses;
    unsigned n_uses_written;
    TbCacheUse *uses;

    /* The block that a lookup found: what is checked is what is used. */
    TbCacheBlock *found;

    QSLIST_ENTRY(TbCacheThread) next;
};

struct TbCache {
    Object parent_obj;

    /* properties */
    TbCacheMode mode;
    char *journal_path;
    char *boot_set;
    char *touched;
    bool small_pages;
    uint64_t journal_max;

    bool active;
    const char *reason;         /* why not active */
    bool frozen;
    char *fingerprint;          /* hex */
    GString *fingerprint_text;
    uint8_t fingerprint_raw[TB_CACHE_FINGERPRINT_SIZE];

    /* Appended under the BQL; @n_packs is published after the element. */
    TbCachePackFile *packs[TB_CACHE_MAX_PACKS];
    unsigned n_packs;
    GPtrArray *refused;         /* packs not mapped */
    TbCacheRejects pack_rejects;

    /* For the log and the journal. */
    QemuMutex lock;
    GPtrArray *mismatch_log;

    /*
     * Checksums of recorded blocks, by their low bits.  Written without a
     * lock: what gets lost is recorded twice.
     */
    uint64_t *seen;

    bool records;               /* blocks are meant for a journal */
    int journal_fd;
    bool journal_dead;          /* no more records */
    bool journal_full;
    uint64_t journal_bytes;

    int64_t start_ns;
    int64_t start_ticks;
    VMChangeStateEntry *first_run;
    Notifier exit_notifier;
    Notifier machine_done;
};

extern TbCache *tb_cache;

/* tb-cache-fingerprint.c */

/**
 * tb_cache_fingerprint: describe all that decides how a block is translated
 * @text: the description is appended, one "name=value" a line
 *
 * Returns NULL, or why blocks of this machine can't be keyed.
 */
const char *tb_cache_fingerprint(GString *text);

/**
 * tb_cache_fingerprint_vcpu: the part about one vCPU, the text's end
 *
 * Returns NULL, or why blocks of this vCPU can't be keyed.
 */
const char *tb_cache_fingerprint_vcpu(CPUState *cpu, GString *text);

/**
 * tb_cache_fingerprint_cpu: the part that only the target knows
 *
 * Returns NULL, or why blocks of this vCPU can't be keyed.
 */
const char *tb_cache_fingerprint_cpu(CPUState *cpu, GString *text);

/* tb-cache-pack.c */

/**
 * tb_cache_pack_open: map a pack
 *
 * Returns the pack, or one with status other than "mapped", which has been
 * counted in @rejects.
 */
TbCachePackFile *tb_cache_pack_open(const char *path,
                                    const uint8_t *fingerprint,
                                    uint32_t page_bits,
                                    TbCacheRejects *rejects);

/**
 * tb_cache_check_file: refuse files that others could have written
 * @fd: the open file, or -1
 * @least: bytes that it must have
 * @size: its size
 *
 * Returns NULL, or the name of the reason, which has been counted.
 */
const char *tb_cache_check_file(int fd, size_t least, size_t *size,
                                TbCacheRejects *rejects);

/** tb_cache_pack_guard_init: survive a mapped file that shrinks */
void tb_cache_pack_guard_init(void);
void tb_cache_pack_guard_thread(void);

/** tb_cache_pack_populate: map the pages around @p in one go */
void tb_cache_pack_populate(TbCachePackFile *pack, size_t offset);

/* tb-cache-writes.c */

void tb_cache_writes_init(void);

/** tb_cache_is_dead: whether the code at @ram keeps rewriting itself */
bool tb_cache_is_dead(ram_addr_t ram);

/**
 * tb_cache_content: tell what code there is now
 * @cache: the cache
 * @ram: where a block begins
 * @code: its guest code, as far as its first page goes
 * @size: how long that is
 */
void tb_cache_content(TbCache *cache, ram_addr_t ram, const uint8_t *code,
                      uint32_t size);

/**
 * tb_cache_get_writes: counters of invalidated blocks and what came after
 * @info: all zero, counters are added
 *
 * Returns how many places are dead.
 */
unsigned tb_cache_get_writes(TbCacheWrites *info);

/* tb-cache-prefault.c */

#define TB_CACHE_PREFAULT_MARGIN (2 * MiB)

/**
 * tb_cache_prefault_start: begin
 * @small_pages: have no page of the code buffer that is not used
 *
 * Called before any vCPU runs.
 */
void tb_cache_prefault_start(bool small_pages);
void tb_cache_prefault_slow(TbCacheThread *t, uint8_t *at, uint8_t *end);

/**
 * tb_cache_prefault: have the code buffer touched ahead of its use
 * @t: whose buffer
 * @at: up to where it is used
 * @end: where it ends
 */
static inline void tb_cache_prefault(TbCacheThread *t, uint8_t *at,
                                     uint8_t *end)
{
    if (unlikely(at + TB_CACHE_PREFAULT_MARGIN > t->prefaulted)) {
        tb_cache_prefault_slow(t, at, end);
    }
}

/* tb-cache-touched.c */

/**
 * tb_cache_touched_start: touch the guest memory that a file lists
 * @path: the file, see TbCacheTouched
 * @rejects: counts why it is not read
 */
void tb_cache_touched_start(const char *path, TbCacheRejects *rejects);

/* tb-cache-journal.c */

void tb_cache_journal_open(TbCache *s, uint32_t page_bits);
void tb_cache_journal_append(TbCache *s, TbCacheThread *t,
                             const TbCacheRecord *rec,
                             const TbCacheBlock *head,
                             const uint8_t *guest, const uint8_t *code,
                             const TbCacheImm *imms);
void tb_cache_journal_flush(TbCache *s, TbCacheThread *t);

/**
 * tb_cache_journal_make_room: write out what @t has, in the thread itself
 *
 * Called if t->full, before another block is recorded or used.
 */
void tb_cache_journal_make_room(TbCache *s, TbCacheThread *t);

void tb_cache_journal_sync(TbCache *s);
void tb_cache_journal_dead(TbCache *s, uint64_t ram, uint32_t size,
                           uint32_t changes);

/**
 * tb_cache_journal_pack_locked: record the name of a pack, keep its uses
 *
 * Called with s->lock held, before @pack is published.
 */
void tb_cache_journal_pack_locked(TbCache *s, TbCachePackFile *pack);

/*
 * A block has its header and at least one byte each of guest code, host
 * code and search data, so that no two begin in the same 64 bytes.  Blocks
 * are asked for in about this order: the bitmap is read in order as well.
 */
static inline size_t tb_cache_use_bit(uint32_t position)
{
    return position / (64 / TB_CACHE_ALIGN);
}

void tb_cache_journal_use_slow(TbCache *s, TbCacheThread *t, uint64_t ram);

/**
 * tb_cache_journal_use: the block that @t found is used at @ram
 *
 * The first time in a run, that is put down.
 */
static inline void tb_cache_journal_use(TbCache *s, TbCacheThread *t,
                                        uint64_t ram)
{
    unsigned long *used = t->pack->used;

    if (used && !test_bit(tb_cache_use_bit(t->position), used)) {
        tb_cache_journal_use_slow(s, t, ram);
    }
}

/* tb-cache.c */

typedef void TbCacheThreadFn(TbCacheThread *t, void *opaque);

void tb_cache_for_each_thread(TbCacheThreadFn *fn, void *opaque);

#endif /* ACCEL_TCG_TB_CACHE_INTERNAL_H */
