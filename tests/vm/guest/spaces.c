/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * A 32-bit x86 kernel with two address spaces, and pages that are global and not.
 * Says a word for each rule of the TLB that holds, and the word with a "!" for each that doesn't.
 * What a rule allows but doesn't ask for ("kept") is said last.
 */
#define PAGE 4096u
#define LARGE 0x400000u

#define PRESENT 1u
#define WRITABLE 2u
#define PS 0x80u
#define GLOBAL 0x100u

#define PGE 0x80u
#define PSE 0x10u

/* Frames; what lies below LARGE is mapped where it is, in both spaces. */
#define SPACES 0x200000u        /* two page directories */
#define TABLES 0x210000u        /* four page tables a space */
#define FRAMES 0x800000u        /* what pages of a space hold, LARGE each */
#define COMMON 0x1000000u       /* what global pages hold */
#define BIG 0x1400000u          /* a large frame, and the next one */

/* Addresses. */
#define OWN 0x40000000u         /* pages of 4 KiB, 1024 of them, others in each space */
#define FAR 0x50000000u         /* the same frames again, to fall on the same places of the TLB */
#define SHARED 0x60000000u      /* global pages */
#define HUGE 0x80000000u        /* a global page of 4 MiB */

__attribute__((section(".multiboot"), used)) static const unsigned header[] = {
    0x1badb002, 0, -0x1badb002u,
};

__attribute__((used)) static unsigned char stack[4096];

static void say(const char *text)
{
    while (*text) {
        __asm__ volatile("outb %0, %1" : : "a"(*text++), "Nd"((unsigned short)0x3f8));
    }
}

static void verdict(const char *word, int holds)
{
    say(word);
    say(holds ? "\n" : "!\n");
}

static volatile unsigned *at(unsigned address)
{
    return (volatile unsigned *)address;
}

static void enter(unsigned space)
{
    __asm__ volatile("mov %0, %%cr3" : : "r"(SPACES + space * PAGE) : "memory");
}

static void forget(unsigned address)
{
    __asm__ volatile("invlpg (%0)" : : "r"(address) : "memory");
}

static void set_cr4(unsigned value)
{
    __asm__ volatile("mov %0, %%cr4" : : "r"(value) : "memory");
}

static void map(unsigned space, unsigned address, unsigned table, unsigned frame, unsigned flags)
{
    volatile unsigned *directory = at(SPACES + space * PAGE);
    unsigned place = TABLES + (space * 4 + table) * PAGE;

    directory[address >> 22] = place | PRESENT | WRITABLE;
    at(place)[address >> 12 & 1023] = frame | PRESENT | WRITABLE | flags;
}

static void make_spaces(void)
{
    for (unsigned space = 0; space < 2; space++) {
        at(SPACES + space * PAGE)[0] = PRESENT | WRITABLE | PS;
        for (unsigned n = 2; n < 6; n++) {      /* frames, where they are */
            at(SPACES + space * PAGE)[n] = n * LARGE | PRESENT | WRITABLE | PS;
        }
        for (unsigned n = 0; n < 1024; n++) {
            unsigned frame = FRAMES + space * LARGE + n * PAGE;

            map(space, OWN + n * PAGE, 0, frame, 0);
            map(space, FAR + n * PAGE, 1, frame, 0);
        }
        map(space, SHARED, 2, COMMON, GLOBAL);
        at(SPACES + space * PAGE)[HUGE >> 22] = BIG | PRESENT | WRITABLE | PS | GLOBAL;
    }
}

static void fill(void)
{
    for (unsigned n = 0; n < 1024; n++) {
        for (unsigned space = 0; space < 2; space++) {
            volatile unsigned char *frame = (void *)(FRAMES + space * LARGE + n * PAGE);

            frame[0] = 0xb8;                    /* mov $space + 1, %eax; ret */
            frame[1] = space + 1;
            frame[2] = frame[3] = frame[4] = 0;
            frame[5] = 0xc3;
        }
    }
    *at(COMMON) = 1;
    *at(COMMON + PAGE) = 2;
    *at(BIG + PAGE) = 1;
    *at(BIG + LARGE + PAGE) = 2;
}

static unsigned owner(unsigned address)
{
    return *at(address) >> 8 & 0xff;
}

static unsigned call(unsigned address)
{
    unsigned value;

    __asm__ volatile("call *%1" : "=a"(value) : "r"(address) : "ecx", "edx", "memory");
    return value;
}

/* Enter both spaces some times and read or run `pages` pages in each. */
static int own(unsigned pages, unsigned (*look)(unsigned))
{
    int holds = 1;

    for (unsigned turn = 0; turn < 8; turn++) {
        enter(turn & 1);
        for (unsigned n = 0; n < pages; n++) {
            holds &= look(OWN + n * PAGE) == (turn & 1) + 1;
        }
    }
    return holds;
}

/* A page that others have driven out of the TLB's table, and one that came back to it. */
static int driven_out(int back)
{
    int holds = 1;

    for (unsigned turn = 0; turn < 8; turn++) {
        enter(turn & 1);
        holds &= owner(OWN) == (turn & 1) + 1;
        holds &= owner(FAR) == (turn & 1) + 1;
        if (back) {
            holds &= owner(OWN) == (turn & 1) + 1;
        }
    }
    return holds;
}

static void set_shared(unsigned frame)
{
    for (unsigned space = 0; space < 2; space++) {
        at(TABLES + (space * 4 + 2) * PAGE)[SHARED >> 12 & 1023] =
            frame | PRESENT | WRITABLE | GLOBAL;
    }
}

static void set_huge(unsigned frame)
{
    for (unsigned space = 0; space < 2; space++) {
        at(SPACES + space * PAGE)[HUGE >> 22] = frame | PRESENT | WRITABLE | PS | GLOBAL;
    }
}

__attribute__((used)) static void body(void)
{
    unsigned cr0, kept;

    make_spaces();
    fill();
    set_cr4(PSE | PGE);
    enter(0);
    __asm__ volatile("mov %%cr0, %0" : "=r"(cr0));
    __asm__ volatile("mov %0, %%cr0" : : "r"(cr0 | 0x80010000u) : "memory");
    *at(SHARED);
    *at(HUGE + PAGE);

    verdict("few", own(4, owner));
    verdict("many", own(1024, owner));
    verdict("code", own(4, call));
    verdict("much-code", own(1024, call));
    verdict("out", driven_out(0));
    verdict("back", driven_out(1));

    set_shared(COMMON + PAGE);
    forget(SHARED);
    verdict("invlpg", *at(SHARED) == 2);
    set_shared(COMMON);
    set_cr4(PSE);
    set_cr4(PSE | PGE);
    verdict("pge", *at(SHARED) == 1);
    set_shared(COMMON + PAGE);
    set_cr4(PSE);
    enter(1);
    verdict("no-pge", *at(SHARED) == 2);
    set_shared(COMMON);
    enter(0);
    verdict("without", *at(SHARED) == 1);
    set_cr4(PSE | PGE);

    *at(HUGE + PAGE);
    enter(1);
    set_huge(BIG + LARGE);
    forget(HUGE);
    verdict("large", *at(HUGE + PAGE) == 2);

    set_shared(COMMON);
    forget(SHARED);
    kept = *at(SHARED);
    set_shared(COMMON + PAGE);
    enter(0);
    verdict("kept", *at(SHARED) == kept);
    for (;;) {
        __asm__ volatile("hlt");
    }
}

__asm__(".globl _start\n"
        "_start: mov $stack + 4096, %esp\n"
        "    call body\n");
