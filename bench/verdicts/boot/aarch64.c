// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Output of QEMU's bare tests on the board's serial port, and their end: with semihosting, which they
 * use otherwise, no block is kept. A test's main() is compiled as test_main(). QEMU gives what is
 * no Linux kernel no PSCI to end with, so the last line tells that it is over.
 */

int test_main(void);

/* boot.S maps memory alone, as it is: the port can be reached while there is no mapping */
void __sys_outc(char c)
{
    unsigned long mapped, direct;

    asm volatile("mrs %0, sctlr_el1\n\t"
                 "bic %1, %0, #1\n\t"
                 "msr sctlr_el1, %1\n\t"
                 "isb\n\t"
                 "strb %w2, [%3]\n\t"
                 "msr sctlr_el1, %0\n\t"
                 "isb"
                 : "=&r"(mapped), "=&r"(direct)
                 : "r"(c), "r"(0x9000000UL)
                 : "memory");
}

static void say(const char *text)
{
    while (*text) {
        __sys_outc(*text++);
    }
}

int main(void)
{
    say(test_main() ? "exit: failed\n" : "exit: passed\n");
    for (;;) {
        asm volatile("wfi");
    }
}
