/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * A 32-bit x86 kernel that runs code in the memory of a VGA adapter.  The
 * function returns a number: it says what the number is, each time that it has
 * been changed, and what the function returned.
 */
#define VGA 0x11111234u
#define TEXT 0xb8000u           /* where the adapter writes for us, in text mode */

__attribute__((section(".multiboot"), used)) static const unsigned header[] = {
    0x1badb002, 0, -0x1badb002u,
};

__attribute__((used)) static unsigned char stack[4096];

static void out8(unsigned short port, unsigned char value)
{
    __asm__ volatile("outb %0, %1" : : "a"(value), "Nd"(port));
}

static void out32(unsigned short port, unsigned value)
{
    __asm__ volatile("outl %0, %1" : : "a"(value), "Nd"(port));
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

/* Where the adapter's memory is seen as it is. */
static unsigned char *find_memory(void)
{
    for (unsigned slot = 0; slot < 32; slot++) {
        if (config(slot, 0) == VGA) {
            return (unsigned char *)(config(slot, 0x10) & ~15u);
        }
    }
    return 0;
}

static void say_both(volatile unsigned char *code)
{
    unsigned value;

    __asm__ volatile("call *%1" : "=a"(value) : "c"(code) : "memory");
    out8(0x3f8, '0' + code[1] % 10);
    out8(0x3f8, '0' + value % 10);
    say("\n");
}

__attribute__((used)) static void body(void)
{
    volatile unsigned char *code = find_memory();
    volatile unsigned char *text = (void *)TEXT;

    /* mov $1,%eax; ret */
    code[0] = 0xb8;
    code[1] = 1;
    code[2] = code[3] = code[4] = 0;
    code[5] = 0xc3;
    say_both(code);
    /* the device does it: in text mode odd bytes are those of the second plane */
    text[1] = 2;
    say_both(code);
    /* and a store, after that */
    code[1] = 3;
    say_both(code);
    say("done\n");
    for (;;) {
        __asm__ volatile("hlt");
    }
}

__asm__(".globl _start\n"
        "_start: mov $stack + 4096, %esp\n"
        "    call body\n");
