/*
 * Persistent translation cache: shared by its own files
 *
 * Copyright (c) 2026 The sysqcache authors
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef ACCEL_TCG_TB_CACHE_INTERNAL_H
#define ACCEL_TCG_TB_CACHE_INTERNAL_H

#include "qemu/queue.h"
#include "qemu/units.h"
#include "qemu/thread.h"
#include "qom/object.h"
#include "qapi/qapi-types-qom.h"
#include "qapi/qapi-types-tb-cache.h"
#include "tb-cache-find.h"
#include "tb-cache.h"

#define TYPE_TB_CACHE "tb-cache"
OBJECT_DECLARE_SIMPLE_TYPE(TbCache, TB_CACHE)

#define TB_CACHE_BUFFER_SIZE    (256 * KiB)
/* How many mismatches of each kind are described. */
#define TB_CACHE_MAX_LOG        4

/* First uses of blocks that a thread buffers, before the header's room. */
#define TB_CACHE_MAX_USES       2048
#define TB_CACHE_USES_HEADER    (sizeof(TbCacheRecord) / sizeof(TbCacheUse))
QEMU_BUILD_BUG_ON(sizeof(TbCacheRecord) % sizeof(TbCacheUse));

/*
 * How many recorded blocks are remembered, to record each only once: most
 * that come again do so soon, and every machine pays for this table.
 */
#define TB_CACHE_SEEN_BITS      14

/* How a block may differ from its translation. */
typedef enum TbCacheMismatch {
    TB_CACHE_MISMATCH_GUEST,
    TB_CACHE_MISMATCH_SIZE,
    TB_CACHE_MISMATCH_JUMPS,
    TB_CACHE_MISMATCH_CONTEXT,
    TB_CACHE_MISMATCH_IMMS,
    TB_CACHE_MISMATCH_CODE,
    TB_CACHE_MISMATCH_SEARCH,
    TB_CACHE_MISMATCH__MAX,
} TbCacheMismatch;

struct TbCacheThread {
    /* Counters are written by their thread alone, and read at any time. */
    uint64_t requested;
    uint64_t adopted;
    uint64_t translated;
    uint64_t verified;
    uint64_t mismatches;
    uint64_t verify_prefix;
    uint64_t verify_limits;
    uint64_t recorded;
    uint64_t adopt_cycles;
    uint64_t miss_cycles;
    uint64_t translate_cycles;
    TbCacheUnrecorded unrecorded;

    /* Looking for blocks, and why they are not found. */
    TbCacheFind find;

    /* The request in progress. */
    int64_t start;              /* cycles */
    int64_t lookup;             /* cycles that a lookup in vain took */
    const TbCacheBlock *hit;    /* to be verified */
    bool did_adopt;
    bool cacheable;
    CPUState *cpu;
    TranslationBlock *tb;
    vaddr pc;
    int vcpu;
    /* Immediates that the block just translated does not depend on. */
    unsigned n_imms;
    TbCacheImm imms[TCG_MAX_GUEST_IMMS];

    /* What waits until no page is locked: others would spin for it. */
    bool full;                  /* a buffer has to be written out */
    TbCacheDead died;           /* a place that is dead now; size 0: none */

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

    QSLIST_ENTRY(TbCacheThread) next;
};

struct TbCache {
    Object parent_obj;

    /* properties */
    TbCacheMode mode;
    char *journal_path;
    char *boot_set;
    char *touched;
    char *images;
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
    TbCacheDirectory *directory; /* of the first of them, by RCU; or NULL */
    GPtrArray *refused;         /* packs not mapped */
    TbCacheRejects pack_rejects;

    /* For the log and the journal. */
    QemuMutex lock;
    GPtrArray *mismatch_log;
    unsigned mismatches[TB_CACHE_MISMATCH__MAX]; /* in the log */

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

/* tb-cache-verify.c */

/**
 * tb_cache_still_fits: whether the block that was found was translated
 *
 * Another vCPU may have written to the code after the lookup: then it was
 * another one.
 */
bool tb_cache_still_fits(const TbCacheThread *t);

/** tb_cache_verify: compare t->hit with the block just translated */
void tb_cache_verify(TbCacheThread *t, const TranslationBlock *tb,
                     int search_size);

/* tb-cache-writes.c */

void tb_cache_writes_init(void);

/** tb_cache_is_dead: whether the code at @ram keeps rewriting itself */
bool tb_cache_is_dead(ram_addr_t ram);

/**
 * tb_cache_content: tell what code there is now
 * @ram: where a block begins
 * @code: its guest code, as far as its first page goes
 * @size: how long that is
 * @died: set if the place has just become dead
 */
void tb_cache_content(ram_addr_t ram, const uint8_t *code, uint32_t size,
                      TbCacheDead *died);

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
void tb_cache_journal_dead(TbCache *s, const TbCacheDead *died);

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
    unsigned long *used = t->find.pack->used;

    if (used && !tb_cache_test_bit(tb_cache_use_bit(t->find.position), used)) {
        tb_cache_journal_use_slow(s, t, ram);
    }
}

/* tb-cache.c */

typedef void TbCacheThreadFn(TbCacheThread *t, void *opaque);

void tb_cache_for_each_thread(TbCacheThreadFn *fn, void *opaque);

#endif /* ACCEL_TCG_TB_CACHE_INTERNAL_H */
