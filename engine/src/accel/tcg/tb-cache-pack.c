/*
 * Persistent translation cache: mapping packs
 *
 * Copyright (c) 2026 The sysqcache authors
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Nothing that a pack holds is believed: the header is checked here, and
 * each block when it is looked up.
 */

#define XXH_INLINE_ALL
#include "qemu/osdep.h"
#include <sys/mman.h>
#include <xxhash.h>
#include "qemu/error-report.h"
#include "qemu/timer.h"
#include "qemu/units.h"
#include "tb-cache-find.h"

#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22
#endif

/* Far more than the names of all packs that are mapped. */
#define MAX_BOOT_SET (16 * MiB)

/* All mapped packs, for the SIGBUS handler; never shrinks. */
static struct {
    uint8_t *base;
    size_t size;
    TbCachePackFile *pack;
} guarded[TB_CACHE_MAX_PACKS];
static unsigned n_guarded;
static struct sigaction old_sigbus;

/* What would have happened without our handler. */
static void chain_sigbus(int sig, siginfo_t *info, void *uc)
{
    if (old_sigbus.sa_flags & SA_SIGINFO) {
        old_sigbus.sa_sigaction(sig, info, uc);
    } else if (old_sigbus.sa_handler == SIG_IGN && info->si_code <= 0) {
        return;
    } else if (old_sigbus.sa_handler != SIG_IGN &&
               old_sigbus.sa_handler != SIG_DFL) {
        old_sigbus.sa_handler(sig);
    } else {
        signal(SIGBUS, SIG_DFL);
        if (info->si_code <= 0) {
            /* Somebody sent it: there is no access that would fault again. */
            raise(SIGBUS);
        }
    }
}

/*
 * A mapped file that shrinks, or a disk that fails, raises SIGBUS.  Put
 * zeros in its place: an index of zeros holds nothing, and a block of
 * zeros fails its checksum.  The address means something only if it is an
 * access of ours that failed.
 */
static void sigbus_handler(int sig, siginfo_t *info, void *uc)
{
    uint8_t *addr = info->si_addr;
    unsigned n = qatomic_load_acquire(&n_guarded);

    for (unsigned i = 0; info->si_code == BUS_ADRERR && i < n; i++) {
        if (addr >= guarded[i].base &&
            addr < guarded[i].base + guarded[i].size) {
            if (mmap(guarded[i].base, guarded[i].size, PROT_READ,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0)
                != MAP_FAILED) {
                qatomic_set(&guarded[i].pack->status, "truncated");
                return;
            }
        }
    }
    chain_sigbus(sig, info, uc);
}

void tb_cache_pack_guard_init(void)
{
    struct sigaction act = {
        .sa_sigaction = sigbus_handler,
        .sa_flags = SA_SIGINFO | SA_NODEFER,
    };

    sigemptyset(&act.sa_mask);
    sigaction(SIGBUS, &act, &old_sigbus);
}

/* qemu_thread_create blocks all but a few signals. */
void tb_cache_pack_guard_thread(void)
{
    sigset_t set;

    sigemptyset(&set);
    sigaddset(&set, SIGBUS);
    pthread_sigmask(SIG_UNBLOCK, &set, NULL);
}

static void guard(TbCachePackFile *p)
{
    guarded[n_guarded].base = (uint8_t *)p->base;
    guarded[n_guarded].size = p->size;
    guarded[n_guarded].pack = p;
    qatomic_store_release(&n_guarded, n_guarded + 1);
}

void tb_cache_pack_populate(TbCachePackFile *pack, size_t window)
{
    size_t start = window << TB_CACHE_WINDOW_BITS;

    if (tb_cache_test_bit(window, pack->windows)) {
        return;
    }
    set_bit_atomic(window, pack->windows);
    /* Only a hint: older kernels, and files that shrank, refuse it. */
    madvise((uint8_t *)pack->base + start,
            MIN(1 << TB_CACHE_WINDOW_BITS, pack->size - start),
            MADV_POPULATE_READ);
}

#define REFUSE(why, text)                       \
    do {                                        \
        rejects->why++;                         \
        return text;                            \
    } while (0)

const char *tb_cache_check_file(int fd, size_t least, size_t *size,
                                TbCacheRejects *rejects)
{
    struct stat st;

    if (fd < 0 || fstat(fd, &st) < 0 || !S_ISREG(st.st_mode)) {
        REFUSE(unreadable, "unreadable");
    }
    if (st.st_uid != geteuid() && st.st_uid != 0) {
        REFUSE(owner, "owner");
    }
    if (st.st_mode & (S_IWGRP | S_IWOTH)) {
        REFUSE(writable, "writable");
    }
    if (st.st_size < least) {
        REFUSE(truncated, "truncated");
    }
    *size = st.st_size;
    return NULL;
}

static const char *check_layout(const TbCachePackHeader *h, size_t size,
                                TbCacheRejects *rejects)
{
    uint64_t entries = h->index_entries;

    if (h->file_size > size) {
        REFUSE(truncated, "truncated");
    }
    if (h->blocks_offset != TB_CACHE_HEADER_SIZE ||
        h->blocks_size > size - TB_CACHE_HEADER_SIZE ||
        h->index_offset % TB_CACHE_HEADER_SIZE ||
        h->index_offset > size ||
        h->index_offset < h->blocks_offset + h->blocks_size ||
        entries > (size - h->index_offset) / sizeof(TbCacheIndexEntry) ||
        h->slot_count == 0 || h->slot_count > UINT32_MAX ||
        entries <= h->slot_count) {
        REFUSE(bounds, "bounds");
    }
    return NULL;
}

static const char *check_header(const TbCachePackHeader *h, size_t size,
                                const uint8_t *fingerprint, uint32_t page_bits,
                                TbCacheRejects *rejects)
{
    if (memcmp(h->magic, TB_CACHE_PACK_MAGIC, sizeof(h->magic))) {
        REFUSE(magic, "magic");
    }
    if (h->version != TB_CACHE_VERSION || h->header_size != sizeof(*h)) {
        REFUSE(version, "version");
    }
    if (h->checksum != XXH3_64bits(h, offsetof(TbCachePackHeader, checksum))) {
        REFUSE(header_checksum, "header-checksum");
    }
    if (memcmp(h->fingerprint, fingerprint, TB_CACHE_FINGERPRINT_SIZE)) {
        REFUSE(fingerprint, "fingerprint");
    }
    if (h->page_bits != page_bits) {
        REFUSE(page_bits, "page-bits");
    }
    return check_layout(h, size, rejects);
}

static const char *map_pack(TbCachePackFile *p, int fd,
                            const TbCachePackHeader *h,
                            TbCacheRejects *rejects)
{
    size_t index_size = h->index_entries * sizeof(TbCacheIndexEntry);
    void *base;

    base = mmap(NULL, p->size, PROT_READ, MAP_PRIVATE, fd, 0);
    if (base == MAP_FAILED) {
        REFUSE(unreadable, "unreadable");
    }
    madvise(base + h->index_offset, index_size, MADV_POPULATE_READ);
    p->base = base;
    p->index = base + h->index_offset;
    p->seed = h->seed;
    p->slot_count = h->slot_count;
    p->index_entries = h->index_entries;
    p->blocks_end = h->blocks_offset + h->blocks_size;
    p->blocks = h->block_count;
    if (h->flags_any | h->flags_all) {
        p->flags_clear = ~h->flags_any;
        p->flags_set = h->flags_all;
    }
    p->windows = bitmap_new((p->size >> TB_CACHE_WINDOW_BITS) + 1);
    return NULL;
}

TbCachePackFile *tb_cache_pack_open(const char *path,
                                    const uint8_t *fingerprint,
                                    uint32_t page_bits,
                                    TbCacheRejects *rejects)
{
    g_autofree TbCachePackHeader *h = g_new(TbCachePackHeader, 1);
    TbCachePackFile *p = g_new0(TbCachePackFile, 1);
    int64_t start = get_clock();
    /* O_NONBLOCK: a FIFO must not hang the machine. */
    int fd = qemu_open(path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK, NULL);

    p->path = g_strdup(path);
    p->status = tb_cache_check_file(fd, TB_CACHE_HEADER_SIZE, &p->size,
                                    rejects);
    if (!p->status && n_guarded == TB_CACHE_MAX_PACKS) {
        rejects->limit++;
        p->status = "limit";
    }
    if (!p->status && pread(fd, h, sizeof(*h), 0) != sizeof(*h)) {
        rejects->unreadable++;
        p->status = "unreadable";
    }
    if (!p->status) {
        p->status = check_header(h, p->size, fingerprint, page_bits, rejects);
    }
    if (!p->status) {
        p->status = map_pack(p, fd, h, rejects);
    }
    if (!p->status) {
        p->status = "mapped";
        guard(p);
    } else {
        warn_report("tb-cache: pack %s refused: %s", path, p->status);
    }
    if (fd >= 0) {
        close(fd);
    }
    p->open_us = (get_clock() - start) / 1000;
    return p;
}

/* Returns NULL for a file that may be read, else why it may not. */
static const char *check_boot_set(int fd, size_t *size)
{
    struct stat st;

    if (fd < 0 || fstat(fd, &st) < 0) {
        return strerror(errno);
    }
    if (!S_ISREG(st.st_mode)) {
        return "not a regular file";
    }
    if (st.st_size > MAX_BOOT_SET) {
        return "too large";
    }
    *size = st.st_size;
    return NULL;
}

/*
 * Returns what the file says, or NULL.  The machine must not wait for who
 * opens a FIFO, nor read what has no end.
 */
static char *read_boot_set(const char *path)
{
    int fd = RETRY_ON_EINTR(open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC));
    size_t size = 0;
    const char *why = check_boot_set(fd, &size);
    char *text = why ? NULL : g_malloc0(size + 1);

    if (text && RETRY_ON_EINTR(pread(fd, text, size, 0)) < 0) {
        why = strerror(errno);
        g_clear_pointer(&text, g_free);
    }
    if (why) {
        warn_report("tb-cache: can't read %s: %s", path, why);
    }
    if (fd >= 0) {
        close(fd);
    }
    return text;
}

void tb_cache_boot_set_read(const char *path, TbCacheAddPack *add,
                            void *opaque)
{
    g_autofree char *text = read_boot_set(path);
    g_auto(GStrv) lines = NULL;

    if (!text) {
        return;
    }
    lines = g_strsplit(text, "\n", -1);
    for (char **l = lines; *l; l++) {
        if (**l) {
            add(*l, opaque);
        }
    }
}
