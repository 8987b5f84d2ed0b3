/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Code that rewrites itself, three ways; each prints a sum that only right
 * translations give.
 */
#define _GNU_SOURCE
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define ROUNDS 10000

typedef uint32_t fn(void);

/* mov $value,%eax; ret */
static void emit(uint8_t *code, uint32_t value)
{
    code[0] = 0xb8;
    memcpy(code + 1, &value, 4);
    code[5] = 0xc3;
}

/* Through the mapping that is executed. */
static uint64_t in_place(void)
{
    uint8_t *code = mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC,
                         MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    uint64_t sum = 0;

    for (uint32_t i = 0; i < ROUNDS; i++) {
        emit(code, i * 2654435761u);
        sum += ((fn *)code)();
    }
    return sum;
}

/* Through a second mapping of the same page. */
static uint64_t second_mapping(void)
{
    int fd = memfd_create("code", 0);
    uint64_t sum = 0;
    uint8_t *rw, *rx;

    if (ftruncate(fd, 4096)) {
        return 0;
    }
    rw = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    rx = mmap(NULL, 4096, PROT_READ | PROT_EXEC, MAP_SHARED, fd, 0);
    for (uint32_t i = 0; i < ROUNDS; i++) {
        emit(rw + 64, i * 40503u + 1);
        sum += ((fn *)(rx + 64))();
    }
    return sum;
}

/* A block that changes an instruction ahead of itself. */
static uint64_t ahead(void)
{
    static const uint8_t body[] = {
        0x89, 0x3d, 0x01, 0x00, 0x00, 0x00, /* mov %edi,1(%rip) */
        0xb8, 0x00, 0x00, 0x00, 0x00,       /* mov $0,%eax */
        0xc3,                               /* ret */
    };
    uint8_t *code = mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC,
                         MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    uint64_t sum = 0;

    memcpy(code + 128, body, sizeof(body));
    for (uint32_t i = 0; i < ROUNDS; i++) {
        sum += ((uint32_t (*)(uint32_t))(code + 128))(i ^ 0x5a5a);
    }
    return sum;
}

int main(void)
{
    printf("%llu %llu %llu\n", (unsigned long long)in_place(),
           (unsigned long long)second_mapping(), (unsigned long long)ahead());
    return 0;
}
