// SPDX-License-Identifier: GPL-2.0-or-later
// What QEMU's multiarch tests for bare machines need of a board, for riscv64's, which QEMU has
// not: starts in place of the firmware, says things on the serial port, ends with the test device.

    .section .head, "ax"
    .global _start
_start:
    la sp, stack_end
    li t0, 0x6000           // FS: floating point may be used
    csrs mstatus, t0
    la t0, trap
    csrw mtvec, t0
    call test_main
    .global _exit
_exit:
    li t0, 0x100000
    slli a0, a0, 16
    li t1, 0x3333           // fail, with a status
    or t1, t1, a0
    bnez a0, 1f
    li t1, 0x5555           // pass
1:  sw t1, (t0)
2:  j 2b

    .balign 4
trap:
    li a0, 1
    j _exit

    .global __sys_outc
__sys_outc:
    li t0, 0x10000000
    sb a0, (t0)
    ret

    .bss
    .balign 16
    .skip 65536
stack_end:
