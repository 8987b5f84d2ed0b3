/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * busy THREADS SECONDS: threads that count atomically in one place, write
 * code and run it, run code that another thread writes, and start
 * processes.  Each checks its own results.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define MAX_THREADS 64

typedef uint32_t fn(void);

static atomic_ulong counter, rounds, failures;
static pthread_rwlock_t code_lock = PTHREAD_RWLOCK_INITIALIZER;
static uint8_t *shared_rw, *shared_rx;
static uint32_t shared_value;
static time_t end;

static void fail(const char *what)
{
    if (failures++ < 5) {
        fprintf(stderr, "busy: %s\n", what);
    }
}

static void serialize(void)
{
    uint32_t a = 0, b, c = 0, d;

    asm volatile("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d) : : "memory");
}

/* mov $value,%eax; ret */
static void emit(uint8_t *code, uint32_t value)
{
    code[0] = 0xb8;
    memcpy(code + 1, &value, 4);
    code[5] = 0xc3;
}

/* Every kind of atomic access, and what is left of them. */
static void count(void)
{
    static __int128 wide;
    static _Atomic uint8_t narrow;
    uint64_t old;

    for (int i = 0; i < 100; i++) {
        unsigned char done = 0;
        uint64_t lo = 0, hi = 0;

        counter++;
        narrow ^= i;
        old = counter;
        while (!atomic_compare_exchange_weak(&counter, &old, old + 1)) {
        }
        /* adds 1 to both halves at once: they must stay equal */
        while (!done) {
            if (lo != hi) {
                fail("the halves of 16 bytes differ");
                return;
            }
            asm volatile("lock cmpxchg16b %1; setz %0"
                         : "=q"(done), "+m"(wide), "+a"(lo), "+d"(hi)
                         : "b"(lo + 1), "c"(hi + 1) : "memory", "cc");
        }
    }
}

/* Code of the thread itself, in a page that it throws away. */
static void own_code(unsigned seed)
{
    uint8_t *code = mmap(NULL, 8192, PROT_READ | PROT_WRITE | PROT_EXEC,
                         MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    for (unsigned i = 0; i < 40; i++) {
        /* some across the page's end */
        uint8_t *at = code + 4096 - 8 * (i % 5) + (i % 7);
        uint32_t value = (seed + i) % 50 * 2654435761u;

        emit(at, value);
        if (((fn *)at)() != value) {
            fail("wrong result of own code");
        }
    }
    munmap(code, 8192);
}

/* Code that one thread writes while the others wait, and all run. */
static void shared_code(unsigned seed)
{
    if (seed % 16 == 0) {
        pthread_rwlock_wrlock(&code_lock);
        shared_value = seed % 97 * 40503u;
        emit(shared_rw + 64, shared_value);
        pthread_rwlock_unlock(&code_lock);
    }
    pthread_rwlock_rdlock(&code_lock);
    serialize();
    if (((fn *)(shared_rx + 64))() != shared_value) {
        fail("wrong result of shared code");
    }
    pthread_rwlock_unlock(&code_lock);
}

static void process(void)
{
    int status = -1;
    pid_t pid = vfork();

    if (pid == 0) {
        execl("/bin/busybox", "busybox", "true", (char *)NULL);
        _exit(9);
    }
    if (pid < 0 || waitpid(pid, &status, 0) != pid || status != 0) {
        fail("a process failed");
    }
}

static void *run(void *opaque)
{
    unsigned seed = (uintptr_t)opaque;

    while (time(NULL) < end) {
        count();
        own_code(seed);
        for (int i = 0; i < 16; i++) {
            shared_code(seed + i);
        }
        if (seed % 8 == 0) {
            process();
        }
        seed++;
        rounds++;
    }
    return NULL;
}

int main(int argc, char **argv)
{
    unsigned threads = argc > 1 ? atoi(argv[1]) : 4;
    int fd = memfd_create("code", 0);
    pthread_t ids[MAX_THREADS];

    if (threads < 1 || threads > MAX_THREADS || ftruncate(fd, 4096)) {
        fprintf(stderr, "usage: busy THREADS SECONDS\n");
        return 2;
    }
    shared_rw = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    shared_rx = mmap(NULL, 4096, PROT_READ | PROT_EXEC, MAP_SHARED, fd, 0);
    emit(shared_rw + 64, 0);
    end = time(NULL) + (argc > 2 ? atoi(argv[2]) : 10);
    for (uintptr_t i = 0; i < threads; i++) {
        pthread_create(&ids[i], NULL, run, (void *)(i * 100003));
    }
    for (unsigned i = 0; i < threads; i++) {
        pthread_join(ids[i], NULL);
    }
    if (counter != rounds * 200) {
        fail("lost counts");
    }
    printf("busy: %s, %lu rounds\n", failures ? "failed" : "ok", rounds);
    return failures != 0;
}
