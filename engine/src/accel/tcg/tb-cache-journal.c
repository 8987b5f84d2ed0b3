/*
 * Persistent translation cache: the journal of a run
 *
 * Copyright (c) 2026 The sysqcache authors
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Each vCPU thread fills a buffer of whole records and appends it with one
 * write, at a moment when it holds no lock of a page.  A write that fails
 * part way is taken back, so that records of other threads are never behind
 * a torn one.
 */

#define XXH_INLINE_ALL
#include "qemu/osdep.h"
#include <xxhash.h>
#include "qemu/cutils.h"
#include "qemu/units.h"
#include "qemu/error-report.h"
#include "exec/memory.h"
#include "exec/address-spaces.h"
#include "exec/translation-block.h"
#include "tb-cache-internal.h"
#include "trace.h"

static bool write_all(int fd, const void *buf, size_t size)
{
    const uint8_t *p = buf;

    while (size > 0) {
        ssize_t n = RETRY_ON_EINTR(write(fd, p, size));

        if (n <= 0) {
            return false;
        }
        p += n;
        size -= n;
    }
    return true;
}

/* Called with s->lock held.  Returns false if nothing was written. */
static bool journal_write_locked(TbCache *s, const void *buf, size_t size)
{
    if (s->journal_dead || s->journal_full) {
        return false;
    }
    if (s->journal_bytes + size > s->journal_max) {
        qatomic_set(&s->journal_full, true);
        return false;
    }
    if (write_all(s->journal_fd, buf, size)) {
        s->journal_bytes += size;
        trace_tb_cache_flush(s->journal_bytes);
        return true;
    }
    warn_report("tb-cache: can't write %s: %s; recording stops",
                s->journal_path, strerror(errno));
    qatomic_set(&s->journal_dead, true);
    if (ftruncate(s->journal_fd, s->journal_bytes) < 0) {
        /* A reader drops the torn tail by itself. */
        warn_report("tb-cache: can't truncate %s: %s", s->journal_path,
                    strerror(errno));
    }
    return false;
}

/*
 * Called with t->lock held, and t->uses may grow meanwhile.  Uses that
 * can't be written are lost; why is known from the blocks.
 */
static void flush_uses_locked(TbCache *s, TbCacheThread *t)
{
    unsigned from = t->n_uses_written;
    unsigned n = qatomic_load_acquire(&t->n_uses) - from;
    size_t payload = n * sizeof(TbCacheUse);
    TbCacheRecord *r;

    if (n == 0) {
        return;
    }
    r = (TbCacheRecord *)&t->uses[from];
    *r = (TbCacheRecord) {
        .magic = TB_CACHE_RECORD_MAGIC,
        .type = TB_CACHE_RECORD_ADOPTED,
        .vcpu = t->vcpu,
        .total_size = sizeof(*r) + payload,
        .payload_size = payload,
        .ram1 = -1,
    };
    r->checksum = XXH3_64bits(r, offsetof(TbCacheRecord, checksum));
    qemu_mutex_lock(&s->lock);
    journal_write_locked(s, r, r->total_size);
    qemu_mutex_unlock(&s->lock);
    t->n_uses_written += n;
}

/* Called with t->lock held. */
static void flush_locked(TbCache *s, TbCacheThread *t)
{
    bool written;

    flush_uses_locked(s, t);
    if (t->fill == 0) {
        return;
    }
    qemu_mutex_lock(&s->lock);
    written = journal_write_locked(s, t->buffer, t->fill);
    qemu_mutex_unlock(&s->lock);
    if (!written) {
        tb_cache_count(&t->recorded, -(int64_t)t->buffered);
        tb_cache_count(qatomic_read(&s->journal_full)
                       ? &t->unrecorded.journal_full
                       : &t->unrecorded.write_error, t->buffered);
    }
    t->fill = 0;
    t->buffered = 0;
}

/* The thread itself, which alone appends, starts again at the beginning. */
void tb_cache_journal_make_room(TbCache *s, TbCacheThread *t)
{
    qemu_mutex_lock(&t->lock);
    flush_locked(s, t);
    if (t->n_uses == TB_CACHE_MAX_USES) {
        t->n_uses = 0;
        t->n_uses_written = 0;
    }
    qemu_mutex_unlock(&t->lock);
}

void tb_cache_journal_flush(TbCache *s, TbCacheThread *t)
{
    qemu_mutex_lock(&t->lock);
    flush_locked(s, t);
    qemu_mutex_unlock(&t->lock);
}

void tb_cache_journal_sync(TbCache *s)
{
    if (s->journal_fd >= 0 && qemu_fdatasync(s->journal_fd) < 0) {
        warn_report("tb-cache: can't sync %s: %s", s->journal_path,
                    strerror(errno));
    }
}

/* Returns the counter of why there is no room, or NULL. */
static uint64_t *no_room_locked(TbCache *s, TbCacheThread *t, size_t total)
{
    if (qatomic_read(&s->journal_dead)) {
        return &t->unrecorded.write_error;
    }
    if (qatomic_read(&s->journal_full)) {
        return &t->unrecorded.journal_full;
    }
    if (total > TB_CACHE_MAX_BLOCK) {
        return &t->unrecorded.too_large;
    }
    if (!t->buffer) {
        t->buffer = g_try_malloc(TB_CACHE_BUFFER_SIZE);
        if (!t->buffer) {
            return &t->unrecorded.no_memory;
        }
    }
    /* tb_cache_begin_slow() made room, see t->full. */
    assert(t->fill + total <= TB_CACHE_BUFFER_SIZE);
    return NULL;
}

/* A flushed or invalidated block often comes back as it was. */
static bool seen_before(TbCache *s, uint64_t checksum)
{
    uint64_t *slot = &s->seen[checksum & (BIT_ULL(TB_CACHE_SEEN_BITS) - 1)];

    if (qatomic_read_u64(slot) == checksum) {
        return true;
    }
    qatomic_set_u64(slot, checksum);
    return false;
}

void tb_cache_journal_append(TbCache *s, TbCacheThread *t,
                             const TbCacheRecord *rec,
                             const TbCacheBlock *head,
                             const uint8_t *guest, const uint8_t *code,
                             const TbCacheImm *imms)
{
    size_t tail = head->code_size + head->search_size;
    size_t imms_size = (head->block_flags >> TB_CACHE_BLOCK_IMMS_SHIFT)
                       * sizeof(*imms);
    size_t body = head->guest_size + tail + imms_size;
    size_t payload = ROUND_UP(sizeof(*head) + body, TB_CACHE_ALIGN);
    size_t total = sizeof(*rec) + payload;
    TbCacheRecord *r;
    TbCacheBlock *b;
    uint64_t *why;

    qemu_mutex_lock(&t->lock);
    why = no_room_locked(s, t, total);
    if (why) {
        tb_cache_count(why, 1);
        qemu_mutex_unlock(&t->lock);
        return;
    }
    r = (TbCacheRecord *)(t->buffer + t->fill);
    *r = *rec;
    r->total_size = total;
    r->payload_size = payload;
    r->checksum = XXH3_64bits(r, offsetof(TbCacheRecord, checksum));

    b = (TbCacheBlock *)(r + 1);
    *b = *head;
    memcpy(b->data, guest, head->guest_size);
    memcpy(b->data + head->guest_size, code, tail);
    memcpy(b->data + head->guest_size + tail, imms, imms_size);
    memset(b->data + body, 0, payload - sizeof(*b) - body);
    b->checksum = XXH3_64bits(&b->cs_base,
                              sizeof(*b) - sizeof(b->checksum) + body);
    if (seen_before(s, b->checksum)) {
        tb_cache_count(&t->unrecorded.known, 1);
    } else {
        t->fill += total;
        t->buffered++;
        tb_cache_count(&t->recorded, 1);
        t->full |= t->fill > TB_CACHE_BUFFER_SIZE - TB_CACHE_MAX_BLOCK;
    }
    qemu_mutex_unlock(&t->lock);
}

static bool add_range(Int128 start, Int128 len, const MemoryRegion *mr,
                      hwaddr offset, void *opaque)
{
    GArray *map = opaque;
    MemoryRegion *region = (MemoryRegion *)mr;

    if (memory_region_is_ram(region) || memory_region_is_romd(region)) {
        uint64_t range[3] = {
            memory_region_get_ram_addr(region) + offset,
            int128_get64(start),
            int128_get64(len),
        };

        g_array_append_vals(map, range, 3);
    }
    return false;
}

/* Where RAM lies in the guest's physical address space at the start. */
static void write_ram_map(TbCache *s)
{
    g_autoptr(GArray) map = g_array_new(false, false, sizeof(uint64_t));
    g_autofree uint8_t *buf = NULL;
    size_t payload;
    TbCacheRecord r = {
        .magic = TB_CACHE_RECORD_MAGIC,
        .type = TB_CACHE_RECORD_RAM_MAP,
    };

    WITH_RCU_READ_LOCK_GUARD() {
        FlatView *view = address_space_to_flatview(&address_space_memory);

        flatview_for_each_range(view, add_range, map);
    }
    payload = map->len * sizeof(uint64_t);
    r.payload_size = payload;
    r.total_size = ROUND_UP(sizeof(r) + payload, TB_CACHE_ALIGN);
    r.checksum = XXH3_64bits(&r, offsetof(TbCacheRecord, checksum));
    buf = g_malloc0(r.total_size);
    memcpy(buf, &r, sizeof(r));
    memcpy(buf + sizeof(r), map->data, payload);

    qemu_mutex_lock(&s->lock);
    journal_write_locked(s, buf, r.total_size);
    qemu_mutex_unlock(&s->lock);
}

void tb_cache_journal_dead(TbCache *s, const TbCacheDead *died)
{
    struct {
        TbCacheRecord r;
        TbCacheDead d;
    } rec = {
        .r.magic = TB_CACHE_RECORD_MAGIC,
        .r.type = TB_CACHE_RECORD_DEAD,
        .r.total_size = sizeof(rec),
        .r.payload_size = sizeof(rec.d),
        .r.ram0 = died->ram,
        .r.ram1 = -1,
        .d = *died,
    };

    if (s->journal_fd < 0) {
        return;
    }
    rec.r.checksum = XXH3_64bits(&rec.r, offsetof(TbCacheRecord, checksum));
    qemu_mutex_lock(&s->lock);
    journal_write_locked(s, &rec, sizeof(rec));
    qemu_mutex_unlock(&s->lock);
}

void tb_cache_journal_pack_locked(TbCache *s, TbCachePackFile *pack)
{
    struct {
        TbCacheRecord r;
        TbCachePackName p;
    } rec = {
        .r.magic = TB_CACHE_RECORD_MAGIC,
        .r.type = TB_CACHE_RECORD_PACK,
        .r.total_size = sizeof(rec),
        .r.payload_size = sizeof(rec.p),
        .r.ram1 = -1,
        .p.number = pack->number,
    };
    g_autofree char *name = g_path_get_basename(pack->path);

    if (g_str_has_suffix(name, ".pack")) {
        name[strlen(name) - strlen(".pack")] = '\0';
    }
    pstrcpy(rec.p.name, sizeof(rec.p.name), name);
    rec.r.checksum = XXH3_64bits(&rec.r, offsetof(TbCacheRecord, checksum));
    if (journal_write_locked(s, &rec, sizeof(rec))) {
        pack->used = bitmap_try_new(pack->size / 64 + 1);
    }
}

void tb_cache_journal_use_slow(TbCache *s, TbCacheThread *t, uint64_t ram)
{
    TbCachePackFile *pack = t->find.pack;
    size_t bit = tb_cache_use_bit(t->find.position);
    unsigned long mask = BIT_MASK(bit);
    unsigned long *word = &pack->used[BIT_WORD(bit)];

    if (qatomic_read(&s->frozen)) {
        return;
    }
    if (!tcg_cflags_has(t->cpu, CF_PARALLEL_BIT)) {
        /*
         * No other thread runs a vCPU, and an atomic operation would wait
         * until the block just copied has left the store buffer.
         */
        *word |= mask;
    } else if (qatomic_fetch_or(word, mask) & mask) {
        return;
    }
    if (unlikely(!t->uses)) {
        t->uses = g_new(TbCacheUse, TB_CACHE_USES_HEADER + TB_CACHE_MAX_USES);
    }
    t->uses[TB_CACHE_USES_HEADER + t->n_uses] = (TbCacheUse) {
        .position = t->find.position,
        .pack = pack->number,
        .vcpu = t->vcpu,
        .ram0 = ram,
    };
    qatomic_store_release(&t->n_uses, t->n_uses + 1);
    t->full |= t->n_uses == TB_CACHE_MAX_USES;
}

void tb_cache_journal_open(TbCache *s, uint32_t page_bits)
{
    g_autofree TbCacheJournalHeader *h = g_new0(TbCacheJournalHeader, 1);

    s->journal_fd = qemu_create(s->journal_path,
                                O_WRONLY | O_EXCL | O_APPEND | O_NOFOLLOW,
                                0600, NULL);
    if (s->journal_fd < 0) {
        warn_report("tb-cache: can't create %s: %s; nothing is recorded",
                    s->journal_path, strerror(errno));
        s->journal_dead = true;
        return;
    }
    memcpy(h->magic, TB_CACHE_JOURNAL_MAGIC, sizeof(h->magic));
    h->version = TB_CACHE_VERSION;
    h->header_size = sizeof(*h);
    memcpy(h->fingerprint, s->fingerprint_raw, sizeof(h->fingerprint));
    h->page_bits = page_bits;
    h->text_size = MIN(s->fingerprint_text->len, sizeof(h->text));
    h->start_ns = g_get_real_time() * 1000ull;
    h->pid = getpid();
    memcpy(h->text, s->fingerprint_text->str, h->text_size);
    h->checksum = XXH3_64bits(h, offsetof(TbCacheJournalHeader, checksum));
    s->seen = g_new0(uint64_t, BIT_ULL(TB_CACHE_SEEN_BITS));

    qemu_mutex_lock(&s->lock);
    journal_write_locked(s, h, sizeof(*h));
    qemu_mutex_unlock(&s->lock);
    write_ram_map(s);
}
