/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * storm THREADS BLOCKS: runs BLOCKS blocks of code that nothing has run
 * before, each once, shared among threads.  The code is the same whatever
 * the number of threads.  Prints the sum that they compute, and the
 * seconds that running them took.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#define SIZE 64                 /* of a block and what lies between two */
#define CHAIN 1024              /* blocks that a call runs */

typedef uint32_t fn(uint32_t *memory);

static uint8_t *code;
static unsigned threads, chains;
static pthread_barrier_t barrier;

/*
 * mov (%rdi),%eax; add $imm,%eax; mov %eax,(%rdi); jmp to the next one, or
 * ret at the end of a chain.
 */
static void emit(uint8_t *p, uint32_t imm, int last)
{
    static const uint8_t head[] = { 0x8b, 0x07, 0x05 };
    static const uint8_t store[] = { 0x89, 0x07 };
    int32_t next = SIZE - 14;

    memcpy(p, head, 3);
    memcpy(p + 3, &imm, 4);
    memcpy(p + 7, store, 2);
    if (last) {
        p[9] = 0xc3;
    } else {
        p[9] = 0xe9;
        memcpy(p + 10, &next, 4);
    }
}

static void *run(void *opaque)
{
    uintptr_t me = (uintptr_t)opaque;
    uint32_t sum = 0;

    pthread_barrier_wait(&barrier);
    for (unsigned i = me; i < chains; i += threads) {
        ((fn *)(code + (size_t)i * CHAIN * SIZE))(&sum);
    }
    pthread_barrier_wait(&barrier);
    return (void *)(uintptr_t)sum;
}

static double now(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return ts.tv_sec + ts.tv_nsec / 1e9;
}

int main(int argc, char **argv)
{
    unsigned blocks = argc > 2 ? atoi(argv[2]) : 0;
    pthread_t ids[64];
    uint32_t sum = 0;
    double start;

    threads = argc > 1 ? atoi(argv[1]) : 0;
    chains = blocks / CHAIN;
    if (threads < 1 || threads > 64 || chains < threads) {
        fprintf(stderr, "usage: storm THREADS BLOCKS\n");
        return 2;
    }
    code = mmap(NULL, (size_t)chains * CHAIN * SIZE,
                PROT_READ | PROT_WRITE | PROT_EXEC,
                MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (code == MAP_FAILED) {
        perror("storm");
        return 1;
    }
    for (unsigned i = 0; i < chains * CHAIN; i++) {
        emit(code + (size_t)i * SIZE, i * 2654435761u, i % CHAIN == CHAIN - 1);
    }
    pthread_barrier_init(&barrier, NULL, threads + 1);
    for (uintptr_t i = 0; i < threads; i++) {
        pthread_create(&ids[i], NULL, run, (void *)i);
    }
    pthread_barrier_wait(&barrier);
    start = now();
    pthread_barrier_wait(&barrier);
    printf("%u blocks %.4f s ", chains * CHAIN, now() - start);
    for (unsigned i = 0; i < threads; i++) {
        void *part;

        pthread_join(ids[i], &part);
        sum += (uintptr_t)part;
    }
    printf("sum %u\n", sum);
    return 0;
}
