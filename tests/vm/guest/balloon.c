/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * A 32-bit x86 kernel that gives a page with code to a balloon, and runs what
 * is there afterwards.  Says "kept" if that is what it gave away, "gone" if not.
 */
#define PAGE 4096u
#define CODE 0x800000u          /* page that goes to the balloon */
#define RING 0x900000u          /* queue, of legacy virtio */
#define LIST 0x910000u          /* page numbers for the device */
#define SCRATCH 0x920000u

#define BALLOON 0x10021af4u
#define GIVEN 7u

__attribute__((section(".multiboot"), used)) static const unsigned header[] = {
    0x1badb002, 0, -0x1badb002u,
};

__attribute__((used)) static unsigned char stack[4096];

static void out8(unsigned short port, unsigned char value)
{
    __asm__ volatile("outb %0, %1" : : "a"(value), "Nd"(port));
}

static void out16(unsigned short port, unsigned short value)
{
    __asm__ volatile("outw %0, %1" : : "a"(value), "Nd"(port));
}

static void out32(unsigned short port, unsigned value)
{
    __asm__ volatile("outl %0, %1" : : "a"(value), "Nd"(port));
}

static unsigned short in16(unsigned short port)
{
    unsigned short value;

    __asm__ volatile("inw %1, %0" : "=a"(value) : "Nd"(port));
    return value;
}

static unsigned in32(unsigned short port)
{
    unsigned value;

    __asm__ volatile("inl %1, %0" : "=a"(value) : "Nd"(port));
    return value;
}

static void say(const char *text)
{
    while (*text) {
        out8(0x3f8, *text++);
    }
}

static unsigned config(unsigned slot, unsigned place)
{
    out32(0xcf8, 0x80000000u | slot << 11 | place);
    return in32(0xcfc);
}

/* The ports of the device, 0 if there is none. */
static unsigned short find_balloon(void)
{
    for (unsigned slot = 0; slot < 32; slot++) {
        if (config(slot, 0) == BALLOON) {
            unsigned ports = config(slot, 0x10) & ~3u;

            out32(0xcf8, 0x80000000u | slot << 11 | 4);
            out32(0xcfc, 5);    /* I/O ports, bus master */
            return ports;
        }
    }
    return 0;
}

/* What the last bytes of the page and the first of the next do. */
static unsigned run(void)
{
    unsigned value = SCRATCH;

    __asm__ volatile("call *%1" : "+a"(value)
                     : "c"(CODE + PAGE - 5) : "ebx", "memory");
    return value;
}

/* mov $GIVEN,%eax; ret.  Where there are zeros instead, %eax stays. */
static void write_code(void)
{
    volatile unsigned char *code = (void *)(CODE + PAGE - 5);

    code[0] = 0xb8;
    code[1] = GIVEN;
    code[2] = code[3] = code[4] = 0;
    code[5] = code[6] = 0xc3;
}

static void inflate(unsigned short ports)
{
    unsigned size;
    volatile unsigned *descriptor = (void *)RING;
    volatile unsigned short *available, *used;

    out8(ports + 18, 0);
    out8(ports + 18, 3);
    out32(ports + 4, 0);
    out16(ports + 14, 0);
    size = in16(ports + 12);
    out32(ports + 8, RING / PAGE);
    out8(ports + 18, 7);

    available = (void *)(RING + 16 * size);
    used = (void *)((RING + 18 * size + 6 + PAGE - 1) & -PAGE);
    *(volatile unsigned *)LIST = CODE / PAGE;
    descriptor[0] = LIST;
    descriptor[1] = 0;
    descriptor[2] = 4;
    descriptor[3] = 0;
    available[2] = 0;
    available[1] = 1;
    out16(ports + 16, 0);
    while (!used[1]) {
        /* the device works on it */
    }
}

__attribute__((used)) static void body(void)
{
    unsigned short ports = find_balloon();

    write_code();
    if (!ports || run() != GIVEN) {
        say("balloon: no balloon\n");
    } else {
        inflate(ports);
        say(run() == GIVEN ? "balloon: kept\n" : "balloon: gone\n");
    }
    for (;;) {
        __asm__ volatile("hlt");
    }
}

__asm__(".globl _start\n"
        "_start: mov $stack + 4096, %esp\n"
        "    call body\n");
