/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Code that a disk writes over older code: no store of the CPU changes the page.
 * Each round reads one page of the disk into an executable mapping and calls the
 * functions in it; the sum comes out right only when each call ran the new code.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#define PAGE 4096

typedef uint32_t fn(uint32_t);

int main(int argc, char **argv)
{
    int fd = argc == 4 ? open(argv[1], O_RDONLY | O_DIRECT) : -1;
    uint32_t pages = argc == 4 ? atoi(argv[2]) : 0;
    uint32_t rounds = argc == 4 ? atoi(argv[3]) : 0;
    uint8_t *code = mmap(NULL, PAGE, PROT_READ | PROT_WRITE | PROT_EXEC,
                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    uint64_t sum = 0;

    if (fd < 0 || code == MAP_FAILED || !pages) {
        perror("dma");
        return 1;
    }
    for (uint32_t i = 0; i < rounds; i++) {
        /* a step that visits all pages in another order than theirs */
        off_t page = (uint64_t)i * 7 % pages;

        if (pread(fd, code, PAGE, page * PAGE) != PAGE) {
            perror("dma: read");
            return 1;
        }
        for (uint32_t place = 0; place < PAGE; place += PAGE / 4) {
            sum = sum * 31 + ((fn *)(code + place))(i);
        }
    }
    printf("%llu\n", (unsigned long long)sum);
    return 0;
}
