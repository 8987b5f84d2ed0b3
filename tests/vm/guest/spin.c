/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * spin THREADS ROUNDS: one thread a processor, which hand a turn on from one
 * to the next; who waits for it spins, as kernels do, with PAUSE.  SIGTERM
 * ends it before: how many rounds a busy host lets happen is not known.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#define MAX_THREADS 64

static atomic_ulong turn;
static atomic_bool ended;
static unsigned threads;
static unsigned long rounds, seen[MAX_THREADS];

static void leave(int signal)
{
    ended = true;
}

static void *run(void *opaque)
{
    unsigned own = (uintptr_t)opaque;
    cpu_set_t set;

    CPU_ZERO(&set);
    CPU_SET(own, &set);
    pthread_setaffinity_np(pthread_self(), sizeof(set), &set);
    for (unsigned long i = 0; i < rounds; i++) {
        while (turn != i * threads + own) {
            if (ended) {
                return NULL;
            }
            __builtin_ia32_pause();
        }
        seen[own]++;
        turn++;
    }
    return NULL;
}

int main(int argc, char **argv)
{
    pthread_t ids[MAX_THREADS];
    struct timespec start, end;
    unsigned long all = 0;

    threads = argc > 1 ? atoi(argv[1]) : 0;
    rounds = argc > 2 ? atol(argv[2]) : 0;
    if (threads < 1 || threads > MAX_THREADS || rounds < 1) {
        fprintf(stderr, "usage: spin THREADS ROUNDS\n");
        return 2;
    }
    signal(SIGTERM, leave);
    clock_gettime(CLOCK_MONOTONIC, &start);
    for (uintptr_t i = 0; i < threads; i++) {
        pthread_create(&ids[i], NULL, run, (void *)i);
    }
    for (unsigned i = 0; i < threads; i++) {
        pthread_join(ids[i], NULL);
        all += seen[i];
    }
    clock_gettime(CLOCK_MONOTONIC, &end);
    printf("%lu turns %.3f s\n", all, end.tv_sec - start.tv_sec
           + (end.tv_nsec - start.tv_nsec) * 1e-9);
    return all != turn || (!ended && all != rounds * threads);
}
