/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * A 32-bit x86 kernel: says that it is ready on the first serial port, and works on.
 * QEMU loads it by its multiboot header and enters _start in protected mode.
 */
__attribute__((section(".multiboot"), used)) static const unsigned header[] = {
    0x1badb002, 0, -0x1badb002u,
};

__attribute__((used)) static unsigned char stack[4096];

static void out(unsigned short port, unsigned char value)
{
    __asm__ volatile("outb %0, %1" : : "a"(value), "Nd"(port));
}

static unsigned mix(unsigned x, unsigned i)
{
    return (x ^ i) * 0x01000193 + (x >> (i & 15));
}

__attribute__((used)) static void body(void)
{
    volatile unsigned sum = 0;

    for (unsigned i = 0; i < 100000; i++) {
        sum = mix(sum, i);
    }
    for (const char *c = "sysqcache: ready\n"; *c; c++) {
        out(0x3f8, *c);
    }
    for (;;) {
        __asm__ volatile("hlt");
    }
}

__asm__(".globl _start\n"
        "_start: mov $stack + 4096, %esp\n"
        "    call body\n");
