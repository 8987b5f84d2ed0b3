/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Calls a function by its address until a translator knows where it is, then
 * changes one thing on which that depends, and calls it again.
 *
 * lookup remap     the page is another one of memory, and back
 *        noexec    the page must not be run any more, and may be again
 *        fork      another process has other code at the same address
 *        alias     the code is written to through another mapping
 *        border    the second page of an instruction is another one
 *        far       the same bytes, as code of 64 and of 32 bits
 *        trap      a debug register, set while the function is being called
 *        spin      calls for ever, for a debugger; COUNTER counts
 *        device ADDRESS...     prints what the functions at these addresses give
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

#define PAGE        4096
#define CODE        ((uint8_t *)0x20000000)     /* two pages */
#define COUNTER     ((volatile uint64_t *)0x20010000)
#define ROUNDS      64
#define CALLS       1000

typedef int fn(void);

#define ADDRESSES   2

static int memory;
static off_t addresses[ADDRESSES];
static int n_addresses;
static sigjmp_buf fault;

static void die(const char *what)
{
    perror(what);
    exit(1);
}

/* Page @number of the memory, at @where; NULL: anywhere. */
static uint8_t *map(void *where, int number, int prot)
{
    int flags = MAP_SHARED | (where ? MAP_FIXED : 0);
    void *p = mmap(where, PAGE, prot, flags, memory, (off_t)number * PAGE);

    if (p == MAP_FAILED) {
        die("mmap");
    }
    return p;
}

#define ALL (PROT_READ | PROT_WRITE | PROT_EXEC)

/* mov $value,%eax; ret */
static void emit(uint8_t *code, uint32_t value)
{
    code[0] = 0xb8;
    memcpy(code + 1, &value, 4);
    code[5] = 0xc3;
}

/* Through a pointer that the compiler does not know. */
static int call(void *code)
{
    fn *volatile f = (fn *)code;
    int first = f();

    for (int i = 0; i < CALLS; i++) {
        if (f() != first) {
            return -1;
        }
    }
    return first;
}

static void expect(int got, int wanted)
{
    static int wrong;

    if (got != wanted) {
        printf("%d instead of %d\n", got, wanted);
        if (++wrong == 10) {
            exit(1);
        }
    }
}

static void remap(void)
{
    for (int i = 0; i < 4; i++) {
        emit(map(CODE, i, ALL), 10 + i);
    }
    for (int i = 0; i < ROUNDS; i++) {
        map(CODE, i * 7 % 4, ALL);
        expect(call(CODE), 10 + i * 7 % 4);
    }
}

static void on_fault(int signal)
{
    (void)signal;
    siglongjmp(fault, 1);
}

static int call_or_fault(void *code)
{
    return sigsetjmp(fault, 1) ? -2 : call(code);
}

static void noexec(void)
{
    signal(SIGSEGV, on_fault);
    emit(map(CODE, 0, ALL), 5);
    for (int i = 0; i < ROUNDS; i++) {
        expect(call_or_fault(CODE), 5);
        mprotect(CODE, PAGE, PROT_READ);
        expect(call_or_fault(CODE), -2);
        mprotect(CODE, PAGE, ALL);
    }
}

static void two_processes(void)
{
    pid_t child;

    emit(map(CODE, 0, ALL), 1);
    emit(map(NULL, 1, ALL), 2);
    *COUNTER = 0;
    child = fork();
    if (child == 0) {
        map(CODE, 1, ALL);
    }
    /* Each waits for the other, so that they take turns. */
    for (uint64_t i = 0; i < 2 * ROUNDS; i += 2) {
        while (*COUNTER != i + !child) {
            sched_yield();
        }
        expect(call(CODE), child ? 1 : 2);
        *COUNTER = i + !child + 1;
    }
    if (child == 0) {
        exit(0);
    }
    wait(NULL);
}

static void alias(void)
{
    uint8_t *other = map(NULL, 0, PROT_READ | PROT_WRITE);

    map(CODE, 0, PROT_READ | PROT_EXEC);
    for (int i = 0; i < ROUNDS; i++) {
        emit(other, 100 + i);
        expect(call(CODE), 100 + i);
    }
}

/* Two bytes of the instruction are in the first page. */
static void border(void)
{
    uint8_t *start = CODE + PAGE - 2;

    map(CODE, 0, ALL);
    for (int i = 1; i < 4; i++) {
        map(CODE + PAGE, i, ALL);
        emit(start, i << 8 | 7);
    }
    for (int i = 0; i < ROUNDS; i++) {
        map(CODE + PAGE, i % 3 + 1, ALL);
        expect(call(start), (i % 3 + 1) << 8 | 7);
    }
}

/* Run @code as it is in 32-bit mode, on a stack that such code can have. */
static int far_call(void *code, uint8_t *stack)
{
    static const uint8_t gate[] = {
        0xff, 0xd1,                             /* call *%ecx */
        0xcb,                                   /* lret */
    };
    /* Not on the stack, which is another one when it is read. */
    static struct { uint32_t offset; uint16_t selector; } target;
    uint8_t *place = CODE + PAGE;
    int result = 0;

    memcpy(place, gate, sizeof(gate));
    target.offset = (uintptr_t)place;
    target.selector = 0x23;
    asm volatile("mov %%rsp,%%r12\n\t"
                 "mov %[stack],%%rsp\n\t"
                 "lcall *%[target]\n\t"
                 "mov %%r12,%%rsp\n\t"
                 : "+a" (result)
                 : [target] "m" (target), [stack] "r" (stack), "c" (code)
                 : "r12", "memory", "cc", "rdx");
    return result;
}

/* 64 bits: inc %rax; 32 bits: dec %eax, inc %eax. */
static void far(void)
{
    static const uint8_t code[] = {
        0xb8, 1, 0, 0, 0, 0x48, 0xff, 0xc0, 0xc3,
    };

    map(CODE + PAGE, 1, ALL);
    memcpy(map(CODE, 0, ALL), code, sizeof(code));
    for (int i = 0; i < ROUNDS; i++) {
        expect(call(CODE), 2);
        expect(far_call(CODE, CODE + 2 * PAGE - 64), 1);
    }
}

static void spin(void)
{
    fn *volatile f = (fn *)CODE;

    emit(map(CODE, 0, ALL), 1);
    for (;;) {
        ++*COUNTER;
        f();
    }
}

static void set_debug(pid_t child, int number, uint64_t value)
{
    size_t at = offsetof(struct user, u_debugreg) + number * 8;

    if (ptrace(PTRACE_POKEUSER, child, at, value)) {
        die("ptrace");
    }
}

static void trap(void)
{
    pid_t child = fork();
    uint64_t before;
    int status;

    if (child == 0) {
        ptrace(PTRACE_TRACEME, 0, NULL, NULL);
        spin();
    }
    for (int i = 0; i < 10; i++) {
        usleep(30000);
        kill(child, SIGSTOP);
        waitpid(child, &status, 0);
        before = *COUNTER;
        set_debug(child, 0, (uintptr_t)CODE);
        set_debug(child, 7, 1);
        ptrace(PTRACE_CONT, child, NULL, NULL);
        waitpid(child, &status, 0);
        expect(WIFSTOPPED(status) ? WSTOPSIG(status) : -1, SIGTRAP);
        expect(*COUNTER - before <= 1, 1);
        set_debug(child, 7, 0);
        ptrace(PTRACE_CONT, child, NULL, NULL);
    }
    kill(child, SIGKILL);
}

/* What it calls first has to be right again after the others. */
static void device(void)
{
    int fd = open("/dev/mem", O_RDWR);
    int results[ADDRESSES];

    for (int i = 0; i < n_addresses; i++) {
        void *code = mmap(CODE + i * PAGE, PAGE, ALL, MAP_SHARED | MAP_FIXED,
                          fd, addresses[i]);

        if (fd < 0 || code == MAP_FAILED) {
            die("/dev/mem");
        }
        results[i] = call(code);
    }
    for (int i = 0; i < ROUNDS * n_addresses; i++) {
        expect(call(CODE + i % n_addresses * PAGE), results[i % n_addresses]);
    }
    for (int i = 0; i < n_addresses; i++) {
        printf("%d\n", results[i]);
    }
    exit(0);
}

int main(int argc, char **argv)
{
    static const struct {
        const char *name;
        void (*run)(void);
    } ways[] = {
        { "remap", remap }, { "noexec", noexec }, { "fork", two_processes },
        { "alias", alias }, { "border", border }, { "far", far },
        { "trap", trap }, { "spin", spin }, { "device", device },
    };
    void *page = mmap((void *)COUNTER, PAGE, PROT_READ | PROT_WRITE,
                      MAP_SHARED | MAP_ANONYMOUS | MAP_FIXED, -1, 0);

    while (n_addresses < ADDRESSES && n_addresses + 2 < argc) {
        addresses[n_addresses] = strtoll(argv[n_addresses + 2], NULL, 0);
        n_addresses++;
    }
    memory = memfd_create("code", 0);
    if (page == MAP_FAILED || memory < 0 || ftruncate(memory, 8 * PAGE)) {
        die("memory");
    }
    for (size_t i = 0; argc > 1 && i < sizeof(ways) / sizeof(ways[0]); i++) {
        if (!strcmp(argv[1], ways[i].name)) {
            ways[i].run();
            printf("%s: done\n", ways[i].name);
            return 0;
        }
    }
    return 2;
}
