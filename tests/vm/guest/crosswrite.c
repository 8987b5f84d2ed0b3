/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * crosswrite CALLERS ROUNDS: in each round a thread changes a function, then
 * others call it by its address.  All wait for each other in between, so that
 * none may get what the function returned before.  One more thread has the
 * TLBs flushed meanwhile.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define MAX_CALLERS 64
#define CALLS 4

typedef uint32_t fn(void);

static _Atomic uint32_t *number;
static fn *function;
static unsigned long rounds;
static unsigned long callers;
static atomic_ulong written, called, stale;
static atomic_bool done;

/* mov $0,%eax; ret: the number lies at a multiple of four */
static void make(uint8_t *code)
{
    code[3] = 0xb8;
    memset(code + 4, 0, 4);
    code[8] = 0xc3;
    function = (fn *)(code + 3);
    number = (_Atomic uint32_t *)(code + 4);
}

static void wait_for(atomic_ulong *what, unsigned long value)
{
    while (*what < value) {
        __builtin_ia32_pause();
    }
}

static void *call(void *opaque)
{
    (void)opaque;
    for (unsigned long i = 1; i <= rounds; i++) {
        wait_for(&written, i);
        for (int j = 0; j < CALLS; j++) {
            stale += function() != i;
        }
        called++;
    }
    return NULL;
}

static void *flush(void *opaque)
{
    uint8_t *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE,
                         MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    (void)opaque;
    while (!done) {
        page[0]++;
        mprotect(page, 4096, PROT_READ);
        mprotect(page, 4096, PROT_READ | PROT_WRITE);
        madvise(page, 4096, MADV_DONTNEED);
    }
    return NULL;
}

int main(int argc, char **argv)
{
    pthread_t ids[MAX_CALLERS + 1];

    callers = argc > 1 ? atoi(argv[1]) : 0;
    rounds = argc > 2 ? atol(argv[2]) : 0;
    if (callers < 1 || callers > MAX_CALLERS || rounds < 1) {
        fprintf(stderr, "usage: crosswrite CALLERS ROUNDS\n");
        return 2;
    }
    make(mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC,
              MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    for (unsigned i = 0; i < callers; i++) {
        pthread_create(&ids[i], NULL, call, NULL);
    }
    pthread_create(&ids[callers], NULL, flush, NULL);
    for (unsigned long i = 1; i <= rounds; i++) {
        *number = i;
        written = i;
        wait_for(&called, i * callers);
    }
    done = 1;
    for (unsigned i = 0; i <= callers; i++) {
        pthread_join(ids[i], NULL);
    }
    printf("%lu rounds %lu stale\n", rounds, stale);
    return 0;
}
