/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * One thread writes code into pages that lie side by side, another one runs
 * it; while it does, the writer writes data into the pages around, so that
 * its TLB gets entries for pages that are being protected.  Each function
 * is run, written anew and run again: one that is run as it was before is
 * counted as wrong.
 *
 * neighbours ROUNDS
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define PAGE        4096
#define PAGES       64
#define AROUND      16
#define FILLER      (2048 * PAGE)   /* more pages than a TLB starts with */

typedef uint32_t fn(void);

static uint8_t *pages, *filler;
static _Atomic uint32_t written, run;
static unsigned rounds;
static unsigned long wrong;

/* mov $value,%eax; ret */
static void emit(uint8_t *code, uint32_t value)
{
    code[0] = 0xb8;
    memcpy(code + 1, &value, 4);
    code[5] = 0xc3;
}

static uint32_t value(uint32_t turn)
{
    return turn * 2654435761u;
}

/* Turns visit the pages in an order in which neighbours follow each other. */
static uint8_t *code_of(uint32_t turn)
{
    return pages + (size_t)(turn / 2 % PAGES) * PAGE + 512;
}

static void on_cpu(int number)
{
    cpu_set_t set;

    CPU_ZERO(&set);
    CPU_SET(number, &set);
    sched_setaffinity(0, sizeof(set), &set);
}

static void wait_for(_Atomic uint32_t *counter, uint32_t least)
{
    while (atomic_load(counter) < least) {
        sched_yield();
    }
}

static void serialize(void)
{
    uint32_t a = 0, b, c = 0, d;

    __asm__ volatile("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d) : : "memory");
}

static void *run_code(void *unused)
{
    (void)unused;
    on_cpu(1);
    for (uint32_t turn = 0; turn < rounds * PAGES * 2; turn++) {
        wait_for(&written, turn + 1);
        serialize();
        wrong += ((fn *)code_of(turn))() != value(turn);
        atomic_store(&run, turn + 1);
    }
    return NULL;
}

/* Data, in pages of which all but one have code sooner or later. */
static void write_around(uint32_t turn)
{
    uint32_t first = turn / 2 % PAGES / AROUND * AROUND;

    if (turn % 8 == 0) {
        for (size_t at = turn % 32 * 64; at < FILLER; at += PAGE) {
            filler[at]++;
        }
    }
    for (uint32_t i = 0; i < AROUND; i++) {
        pages[(size_t)(first + i) * PAGE + 3072]++;
    }
}

int main(int argc, char **argv)
{
    pthread_t thread;

    rounds = argc > 1 ? atoi(argv[1]) : 1;
    pages = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE | PROT_EXEC,
                 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    filler = mmap(NULL, FILLER, PROT_READ | PROT_WRITE,
                  MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (pages == MAP_FAILED || filler == MAP_FAILED) {
        return 1;
    }
    /* at once, so that the kernel hands out neighbours */
    for (size_t at = 0; at < PAGES * PAGE; at += PAGE) {
        pages[at] = 1;
    }
    on_cpu(0);
    pthread_create(&thread, NULL, run_code, NULL);
    for (uint32_t turn = 0; turn < rounds * PAGES * 2; turn++) {
        emit(code_of(turn), value(turn));
        atomic_store(&written, turn + 1);
        write_around(turn);
        wait_for(&run, turn + 1);
    }
    pthread_join(thread, NULL);
    printf("neighbours: %u runs, %lu wrong\n", rounds * PAGES * 2, wrong);
    return 0;
}
