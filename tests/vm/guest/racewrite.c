/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * racewrite WAY CALLERS SECONDS: a thread changes functions while others call
 * them, and nobody waits.  What a function returns only grows: whoever has
 * seen that a change is published, and has serialised, must not get less.
 *
 * WAY is how the number is written: 1, 2, 4, 8 or 16 bytes, "lock" for locked
 * operations, "cross" for a store that lies on two pages, "string" for rep
 * stos, "fxsave" for a helper of the emulator that probes and writes.
 */
#define _GNU_SOURCE
#include <cpuid.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#define MAX_CALLERS 64
#define SLOT 1024
#define PAGE 4096
#define SLOTS 24
#define ROUNDS 250              /* of one slot: fits into a byte */

typedef uint32_t fn(void);
typedef void writer(uint8_t *number, uint32_t value);

static uint8_t *area;
static unsigned places;         /* of the number in a slot */
static writer *way;
static _Atomic uint64_t published; /* number of the slot, not reduced, and value */
static atomic_ulong calls, stale;
static atomic_bool done;

/* mov $0,%eax; ret: the number lies at a multiple of 16 unless it crosses */
static uint8_t *number_of(unsigned slot)
{
    return area + places + slot * SLOT;
}

static void make(unsigned slot)
{
    uint8_t *number = number_of(slot);

    memset(number, 0, 4);
    number[4] = 0xc3;
    number[-1] = 0xb8;
}

static void write1(uint8_t *p, uint32_t v) { *(volatile uint8_t *)p = v; }
static void write2(uint8_t *p, uint32_t v) { *(volatile uint16_t *)p = v; }
static void write4(uint8_t *p, uint32_t v) { *(volatile uint32_t *)p = v; }

/* with the ret that follows */
static void write8(uint8_t *p, uint32_t v)
{
    *(volatile uint64_t *)p = v | 0xc3ull << 32;
}

static void write16(uint8_t *p, uint32_t v)
{
    uint64_t both[2] __attribute__((aligned(16))) = { v | 0xc3ull << 32 };

    __asm__ volatile("movdqa %1, %%xmm0; movdqa %%xmm0, %0"
                     : "=m"(*(uint64_t (*)[2])p) : "m"(both) : "xmm0");
}

static void write_lock(uint8_t *p, uint32_t v)
{
    _Atomic uint32_t *at = (_Atomic uint32_t *)p;

    switch (v % 3) {
    case 0:
        atomic_exchange(at, v);
        break;
    case 1:
        atomic_fetch_add(at, v - atomic_load(at));
        break;
    default: {
        uint32_t old = atomic_load(at);

        atomic_compare_exchange_strong(at, &old, v);
    }
    }
}

static void write_string(uint8_t *p, uint32_t v)
{
    unsigned long n = 1;

    __asm__ volatile("rep stosl" : "+D"(p), "+c"(n) : "a"(v) : "memory");
}

/* The first vector register lies at byte 160 of the image: the whole function. */
static void write_fxsave(uint8_t *p, uint32_t v)
{
    uint64_t both[2] __attribute__((aligned(16))) = {
        0xb8 | (uint64_t)v << 8 | 0xc3ull << 40,
    };

    __asm__ volatile("movdqa %1, %%xmm0; fxsave %0"
                     : "=m"(*(uint8_t (*)[512])(p - 161)) : "m"(both) : "xmm0");
}

static const struct {
    const char *name;
    writer *write;
    unsigned place;
} ways[] = {
    { "1", write1, 16 },
    { "2", write2, 16 },
    { "4", write4, 16 },
    { "8", write8, 16 },
    { "16", write16, 16 },
    { "lock", write_lock, 16 },
    { "cross", write4, PAGE - 2 },
    { "string", write_string, 16 },
    { "fxsave", write_fxsave, 16 + 161 },
};

static uint32_t serialised_call(unsigned slot)
{
    unsigned a, b, c, d;

    __cpuid(0, a, b, c, d);
    return ((fn *)(number_of(slot) - 1))();
}

static void *call(void *opaque)
{
    (void)opaque;
    while (!done) {
        uint64_t seen = published;
        uint32_t value = serialised_call((seen >> 32) % SLOTS);

        /* a slot that is made anew begins with 0 */
        stale += value < (uint32_t)seen && published >> 32 == seen >> 32;
        calls++;
    }
    return NULL;
}

static void pause_a_little(void)
{
    static uint32_t seed = 1;

    seed = seed * 1103515245 + 12345;
    for (volatile unsigned i = seed >> 16 & 1023; i > 0; i--) {
    }
}

static unsigned long run(double seconds)
{
    struct timespec start, now;
    unsigned long changes = 0;
    uint64_t slot = 0;

    clock_gettime(CLOCK_MONOTONIC, &start);
    do {
        make(++slot % SLOTS);
        published = slot << 32;
        for (uint32_t i = 1; i <= ROUNDS; i++) {
            way(number_of(slot % SLOTS), i);
            published = slot << 32 | i;
            changes++;
            if (slot & 1) {
                pause_a_little();
            }
        }
        clock_gettime(CLOCK_MONOTONIC, &now);
    } while (now.tv_sec - start.tv_sec + (now.tv_nsec - start.tv_nsec) / 1e9
             < seconds);
    done = 1;
    return changes;
}

int main(int argc, char **argv)
{
    unsigned callers = argc > 2 ? atoi(argv[2]) : 0;
    pthread_t ids[MAX_CALLERS];
    unsigned long changes;

    for (size_t i = 0; argc > 1 && i < sizeof(ways) / sizeof(ways[0]); i++) {
        if (!strcmp(ways[i].name, argv[1])) {
            way = ways[i].write;
            places = ways[i].place;
        }
    }
    if (!way || callers < 1 || callers > MAX_CALLERS || argc != 4) {
        fprintf(stderr, "usage: racewrite WAY CALLERS SECONDS\n");
        return 2;
    }
    area = mmap(NULL, 2 * PAGE + SLOTS * SLOT, PROT_READ | PROT_WRITE | PROT_EXEC,
                MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    for (unsigned slot = 0; slot < SLOTS; slot++) {
        make(slot);
    }
    for (unsigned i = 0; i < callers; i++) {
        pthread_create(&ids[i], NULL, call, NULL);
    }
    changes = run(atof(argv[3]));
    for (unsigned i = 0; i < callers; i++) {
        pthread_join(ids[i], NULL);
    }
    printf("%lu changes %lu calls %lu stale\n", changes, calls, stale);
    return 0;
}
