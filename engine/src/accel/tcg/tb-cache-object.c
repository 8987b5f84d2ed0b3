/*
 * Persistent translation cache: the tb-cache object and its QMP commands
 *
 * Copyright (c) 2026 The sysqcache authors
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/units.h"
#include "qemu/error-report.h"
#include "qemu/lockable.h"
#include "qemu/timer.h"
#include "crypto/random.h"
#include "qapi/error.h"
#include "qapi/visitor.h"
#include "qapi/qapi-commands-tb-cache.h"
#include "qom/object_interfaces.h"
#include "exec/cpu-all.h"
#include "hw/core/cpu.h"
#include "hw/loader.h"
#include "hw/qdev-core.h"
#include "system/runstate.h"
#include "system/system.h"
#include "system/tcg.h"
#include "tcg/call-table.h"
#include "tcg/tcg.h"
#include "tb-context.h"
#include "tb-cache-internal.h"
#ifdef CONFIG_MALLOC_TRIM
#include <malloc.h>
#endif

#define DEFAULT_JOURNAL_MAX (1 * GiB)

/*
 * Called with the BQL held.  Opening reads the index: vCPUs must not wait
 * for that when they write to the journal.
 */
static TbCachePackFile *add_pack(TbCache *s, const char *path)
{
    TbCachePackFile *p = tb_cache_pack_open(path, s->fingerprint_raw,
                                            TARGET_PAGE_BITS,
                                            &s->pack_rejects);

    if (!p->base) {
        g_ptr_array_add(s->refused, p);
        return p;
    }
    p->number = s->n_packs;
    if (s->records) {
        qemu_mutex_lock(&s->lock);
        tb_cache_journal_pack_locked(s, p);
        qemu_mutex_unlock(&s->lock);
    }
    s->packs[s->n_packs] = p;
    qatomic_store_release(&s->n_packs, s->n_packs + 1);
    return p;
}

/*
 * Called with the BQL held.  A directory that is made anew for every few
 * packs costs little for each.
 */
static void list_packs(TbCache *s)
{
    TbCacheDirectory *old = s->directory, *new;
    unsigned listed = old ? old->n_packs : 0;
    uint64_t seed;

    if (s->n_packs - listed <= TB_CACHE_FEW_PACKS ||
        qcrypto_random_bytes(&seed, sizeof(seed), NULL) < 0) {
        return;
    }
    new = tb_cache_directory_new(s->packs, s->n_packs, seed);
    if (new) {
        qatomic_rcu_set(&s->directory, new);
        if (old) {
            g_free_rcu(old, rcu);
        }
    }
}

static void add_boot_pack(const char *path, void *opaque)
{
    add_pack(opaque, path);
}

static void set_fingerprint(TbCache *s)
{
    g_autoptr(GChecksum) sum = g_checksum_new(G_CHECKSUM_SHA256);
    gsize len = sizeof(s->fingerprint_raw);

    g_checksum_update(sum, (const guchar *)s->fingerprint_text->str,
                      s->fingerprint_text->len);
    s->fingerprint = g_strdup(g_checksum_get_string(sum));
    g_checksum_get_digest(sum, s->fingerprint_raw, &len);
}

/* What the start and a saved state needed for a moment is given back. */
static void first_run(void *opaque, bool running, RunState state)
{
    TbCache *s = opaque;

    if (running && s->first_run) {
        g_clear_pointer(&s->first_run, qemu_del_vm_change_state_handler);
#ifdef CONFIG_MALLOC_TRIM
        malloc_trim(0);
#endif
    }
}

/* All vCPUs exist and none runs. */
static void activate(Notifier *n, void *opaque)
{
    TbCache *s = container_of(n, TbCache, machine_done);

    if (s->small_pages) {
        s->first_run = qemu_add_vm_change_state_handler(first_run, s);
        /* Half a cache line a block is a lot where memory is short. */
        tcg_tb_align = CODE_GEN_ALIGN;
    }
    if (s->touched) {
        tb_cache_touched_start(s->touched, &s->pack_rejects);
    }
    s->reason = tb_cache_fingerprint(s->fingerprint_text);
    set_fingerprint(s);
    if (s->reason) {
        warn_report("tb-cache: %s; the machine runs without it", s->reason);
        return;
    }
    s->start_ns = get_clock();
    s->start_ticks = cpu_get_host_ticks();
    tb_cache_pack_guard_init();
    tb_cache_writes_init();
    s->records = s->journal_path && s->mode != TB_CACHE_MODE_READ_ONLY;
    if (s->records) {
        tb_cache_journal_open(s, TARGET_PAGE_BITS);
    }
    if (s->boot_set) {
        tb_cache_boot_set_read(s->boot_set, add_boot_pack, s);
        list_packs(s);
    }
    if (s->n_packs && s->mode != TB_CACHE_MODE_VERIFY) {
        tb_cache_prefault_start(s->small_pages);
    }
    s->active = true;
    tcg_position_independent = true;
    tb_cache_on = true;
}

/* Called with the BQL held, before the vCPU's thread runs. */
void tb_cache_vcpu_started_slow(CPUState *cpu)
{
    g_autoptr(GString) text = g_string_new(NULL);
    TbCache *s = tb_cache;

    s->reason = tb_cache_fingerprint_vcpu(cpu, text);
    if (!s->reason && !g_str_has_suffix(s->fingerprint_text->str, text->str)) {
        s->reason = "a vCPU that differs from the others was plugged in";
    }
    if (s->reason) {
        warn_report("tb-cache: %s; the machine runs on without it", s->reason);
        s->active = false;
        qatomic_set(&tb_cache_on, false);
    }
}

static void flush_thread(TbCacheThread *t, void *opaque)
{
    tb_cache_journal_flush(opaque, t);
}

static uint64_t flush_all(TbCache *s)
{
    if (s->journal_fd >= 0) {
        tb_cache_for_each_thread(flush_thread, s);
    }
    QEMU_LOCK_GUARD(&s->lock);
    return s->journal_bytes;
}

static void at_exit(Notifier *n, void *opaque)
{
    flush_all(container_of(n, TbCache, exit_notifier));
}

static void tb_cache_complete(UserCreatable *uc, Error **errp)
{
    TbCache *s = TB_CACHE(uc);

    if (tb_cache) {
        error_setg(errp, "there can be only one tb-cache object");
        return;
    }
    /* Blocks of the vCPUs have their places already. */
    if (phase_check(PHASE_MACHINE_READY)) {
        error_setg(errp, "a tb-cache object has to be there before the "
                   "machine starts: give it on the command line");
        return;
    }
    tb_cache = s;
    /* Before the machine is made, which loads them. */
    image_files_never_change(s->images);
    /* vCPU threads use it without a lock: it stays until the process ends. */
    object_ref(OBJECT(s));
    s->exit_notifier.notify = at_exit;
    qemu_add_exit_notifier(&s->exit_notifier);
    s->machine_done.notify = activate;
    qemu_add_machine_init_done_notifier(&s->machine_done);
}

static bool tb_cache_can_be_deleted(UserCreatable *uc)
{
    return tb_cache != TB_CACHE(uc);
}

static char *get_journal(Object *obj, Error **errp)
{
    return g_strdup(TB_CACHE(obj)->journal_path);
}

static void set_journal(Object *obj, const char *value, Error **errp)
{
    TbCache *s = TB_CACHE(obj);

    if (tb_cache == s) {
        error_setg(errp, "the journal can't be changed");
        return;
    }
    g_free(s->journal_path);
    s->journal_path = *value ? g_strdup(value) : NULL;
}

static char *get_boot_set(Object *obj, Error **errp)
{
    return g_strdup(TB_CACHE(obj)->boot_set);
}

static void set_boot_set(Object *obj, const char *value, Error **errp)
{
    TbCache *s = TB_CACHE(obj);

    if (tb_cache == s) {
        error_setg(errp, "the boot set can't be changed, "
                   "use x-tb-cache-add-pack");
        return;
    }
    g_free(s->boot_set);
    s->boot_set = *value ? g_strdup(value) : NULL;
}

static char *get_touched(Object *obj, Error **errp)
{
    return g_strdup(TB_CACHE(obj)->touched);
}

static void set_touched(Object *obj, const char *value, Error **errp)
{
    TbCache *s = TB_CACHE(obj);

    if (tb_cache == s) {
        error_setg(errp, "the pages to touch can't be changed");
        return;
    }
    g_free(s->touched);
    s->touched = *value ? g_strdup(value) : NULL;
}

static char *get_images(Object *obj, Error **errp)
{
    return g_strdup(TB_CACHE(obj)->images);
}

static void set_images(Object *obj, const char *value, Error **errp)
{
    TbCache *s = TB_CACHE(obj);

    if (tb_cache == s) {
        error_setg(errp, "the folder of images can't be changed");
        return;
    }
    g_free(s->images);
    s->images = *value ? g_strdup(value) : NULL;
}

static bool get_small_pages(Object *obj, Error **errp)
{
    return TB_CACHE(obj)->small_pages;
}

static void set_small_pages(Object *obj, bool value, Error **errp)
{
    TbCache *s = TB_CACHE(obj);

    if (tb_cache == s) {
        error_setg(errp, "the size of pages can't be changed");
        return;
    }
    s->small_pages = value;
}

static int get_mode(Object *obj, Error **errp)
{
    return TB_CACHE(obj)->mode;
}

static void set_mode(Object *obj, int value, Error **errp)
{
    TbCache *s = TB_CACHE(obj);

    if (tb_cache == s) {
        error_setg(errp, "the mode can't be changed");
        return;
    }
    s->mode = value;
}

static void get_journal_max(Object *obj, Visitor *v, const char *name,
                            void *opaque, Error **errp)
{
    visit_type_size(v, name, &TB_CACHE(obj)->journal_max, errp);
}

static void set_journal_max(Object *obj, Visitor *v, const char *name,
                            void *opaque, Error **errp)
{
    visit_type_size(v, name, &TB_CACHE(obj)->journal_max, errp);
}

static void tb_cache_class_init(ObjectClass *oc, void *data)
{
    UserCreatableClass *ucc = USER_CREATABLE_CLASS(oc);

    ucc->complete = tb_cache_complete;
    ucc->can_be_deleted = tb_cache_can_be_deleted;

    object_class_property_add_enum(oc, "mode", "TbCacheMode",
                                   &TbCacheMode_lookup, get_mode, set_mode);
    object_class_property_add_str(oc, "journal", get_journal, set_journal);
    object_class_property_add_str(oc, "boot-set", get_boot_set, set_boot_set);
    object_class_property_add_str(oc, "touched", get_touched, set_touched);
    object_class_property_add_str(oc, "images", get_images, set_images);
    object_class_property_add_bool(oc, "small-pages", get_small_pages,
                                   set_small_pages);
    object_class_property_add(oc, "journal-max", "size", get_journal_max,
                              set_journal_max, NULL, NULL);
}

static void tb_cache_init(Object *obj)
{
    TbCache *s = TB_CACHE(obj);

    s->journal_max = DEFAULT_JOURNAL_MAX;
    s->journal_fd = -1;
    s->fingerprint_text = g_string_new(NULL);
    s->refused = g_ptr_array_new();
    s->mismatch_log = g_ptr_array_new();
    s->reason = "the machine is not ready";
    qemu_mutex_init(&s->lock);
}

static void tb_cache_finalize(Object *obj)
{
    TbCache *s = TB_CACHE(obj);

    g_free(s->journal_path);
    g_free(s->boot_set);
    g_free(s->touched);
    g_free(s->images);
    g_free(s->fingerprint);
    g_string_free(s->fingerprint_text, true);
    g_ptr_array_free(s->refused, true);
    g_ptr_array_free(s->mismatch_log, true);
    qemu_mutex_destroy(&s->lock);
}

static const TypeInfo tb_cache_types[] = {
    {
        .name = TYPE_TB_CACHE,
        .parent = TYPE_OBJECT,
        .instance_size = sizeof(TbCache),
        .instance_init = tb_cache_init,
        .instance_finalize = tb_cache_finalize,
        .class_init = tb_cache_class_init,
        .interfaces = (InterfaceInfo[]) {
            { TYPE_USER_CREATABLE },
            { }
        },
    },
};

DEFINE_TYPES(tb_cache_types)

/* The counter structs hold nothing but uint64_t. */
static void add_counters(void *to, const void *from, size_t size)
{
    uint64_t *t = to;
    const uint64_t *f = from;

    for (size_t i = 0; i < size / sizeof(*t); i++) {
        t[i] += qatomic_read_u64(&f[i]);
    }
}

static void add_thread(TbCacheThread *t, void *opaque)
{
    TbCacheInfo *info = opaque;

    info->requested += qatomic_read_u64(&t->requested);
    info->adopted += qatomic_read_u64(&t->adopted);
    info->translated += qatomic_read_u64(&t->translated);
    info->verified += qatomic_read_u64(&t->verified);
    info->mismatches += qatomic_read_u64(&t->mismatches);
    info->verify_prefix += qatomic_read_u64(&t->verify_prefix);
    info->verify_limits += qatomic_read_u64(&t->verify_limits);
    info->recorded += qatomic_read_u64(&t->recorded);
    info->adopt_cycles += qatomic_read_u64(&t->adopt_cycles);
    info->miss_cycles += qatomic_read_u64(&t->miss_cycles);
    info->translate_cycles += qatomic_read_u64(&t->translate_cycles);
    add_counters(info->misses, &t->find.misses, sizeof(t->find.misses));
    add_counters(info->rejected, &t->find.rejected,
                 sizeof(t->find.rejected));
    add_counters(info->unrecorded, &t->unrecorded, sizeof(t->unrecorded));
}

/* CPU time of all vCPU threads; several vCPUs may share one. */
static uint64_t vcpu_time(void)
{
    QemuThread *last = NULL;
    uint64_t sum = 0;
    CPUState *cpu;

    CPU_FOREACH(cpu) {
        struct timespec ts;
        clockid_t clock;

        if (!cpu->thread || cpu->thread == last ||
            pthread_getcpuclockid(cpu->thread->thread, &clock) ||
            clock_gettime(clock, &ts)) {
            continue;
        }
        last = cpu->thread;
        sum += ts.tv_sec * NANOSECONDS_PER_SECOND + ts.tv_nsec;
    }
    return sum;
}

static TbCachePack *pack_info(const TbCachePackFile *p)
{
    TbCachePack *info = g_new0(TbCachePack, 1);

    info->path = g_strdup(p->path);
    info->status = g_strdup(qatomic_read(&p->status));
    info->blocks = p->blocks;
    info->bytes = p->size;
    info->open_us = p->open_us;
    return info;
}

static void add_lists(TbCache *s, TbCacheInfo *info)
{
    TbCachePackList **packs = &info->packs;
    strList **log = &info->mismatch_log;

    qemu_mutex_lock(&s->lock);
    for (unsigned i = 0; i < s->n_packs; i++) {
        QAPI_LIST_APPEND(packs, pack_info(s->packs[i]));
    }
    for (guint i = 0; i < s->refused->len; i++) {
        QAPI_LIST_APPEND(packs, pack_info(g_ptr_array_index(s->refused, i)));
    }
    for (guint i = 0; i < s->mismatch_log->len; i++) {
        QAPI_LIST_APPEND(log,
                         g_strdup(g_ptr_array_index(s->mismatch_log, i)));
    }
    add_counters(info->rejected, &s->pack_rejects, sizeof(s->pack_rejects));
    info->journal_bytes = s->journal_bytes;
    qemu_mutex_unlock(&s->lock);
}

static TbCache *the_tb_cache(Error **errp)
{
    if (!tb_cache) {
        error_setg(errp, "there is no tb-cache object");
    }
    return tb_cache;
}

TbCacheInfo *qmp_x_query_tb_cache(Error **errp)
{
    TbCache *s = the_tb_cache(errp);
    TbCacheInfo *info;
    int64_t ns;

    if (!s) {
        return NULL;
    }
    info = g_new0(TbCacheInfo, 1);
    info->misses = g_new0(TbCacheMisses, 1);
    info->rejected = g_new0(TbCacheRejects, 1);
    info->unrecorded = g_new0(TbCacheUnrecorded, 1);
    info->writes = g_new0(TbCacheWrites, 1);
    info->id = g_strdup(object_get_canonical_path_component(OBJECT(s)));
    info->mode = s->mode;
    info->active = s->active;
    info->reason = g_strdup(s->reason ?: "");
    info->fingerprint = g_strdup(s->fingerprint ?: "");
    info->fingerprint_text = g_strdup(s->fingerprint_text->str);
    info->journal = g_strdup(s->journal_path ?: "");
    info->invalidated = qatomic_read(&tb_ctx.tb_phys_invalidate_count);
    info->dead = tb_cache_get_writes(info->writes);
    info->flushes = qatomic_read(&tb_ctx.tb_flush_count);
    tb_cache_for_each_thread(add_thread, info);
    add_lists(s, info);
    info->vcpu_ns = vcpu_time();
    ns = get_clock() - s->start_ns;
    if (s->active && ns > 0) {
        info->tsc_hz = (double)(cpu_get_host_ticks() - s->start_ticks)
                       * NANOSECONDS_PER_SECOND / ns;
    }
    return info;
}

TbCacheCheckpoint *qmp_x_tb_cache_checkpoint(Error **errp)
{
    TbCache *s = the_tb_cache(errp);
    TbCacheCheckpoint *c;

    if (!s) {
        return NULL;
    }
    c = g_new0(TbCacheCheckpoint, 1);
    c->journal_bytes = flush_all(s);
    tb_cache_journal_sync(s);
    return c;
}

TbCachePack *qmp_x_tb_cache_add_pack(const char *path, Error **errp)
{
    TbCache *s = the_tb_cache(errp);
    TbCachePackFile *p;

    if (!s) {
        return NULL;
    }
    if (!s->active) {
        error_setg(errp, "the tb-cache object is not active: %s", s->reason);
        return NULL;
    }
    p = add_pack(s, path);
    list_packs(s);
    return pack_info(p);
}

void qmp_x_tb_cache_freeze(bool freeze, Error **errp)
{
    TbCache *s = the_tb_cache(errp);

    if (s) {
        qatomic_set(&s->frozen, freeze);
    }
}

/* The names that they had before. */

TbCacheInfo *qmp_query_tb_cache(Error **errp)
{
    return qmp_x_query_tb_cache(errp);
}

TbCacheCheckpoint *qmp_tb_cache_checkpoint(Error **errp)
{
    return qmp_x_tb_cache_checkpoint(errp);
}

TbCachePack *qmp_tb_cache_add_pack(const char *path, Error **errp)
{
    return qmp_x_tb_cache_add_pack(path, errp);
}

void qmp_tb_cache_freeze(bool freeze, Error **errp)
{
    qmp_x_tb_cache_freeze(freeze, errp);
}
