/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * A 32-bit kernel that goes to 64-bit mode: ring 3 calls a function through a gate, and with that
 * ring 0. The page is one of ring 3's, which ring 0 may run until it turns SMEP on:
 *
 *   ring 0 calls the function, so that a translator has it for ring 0;
 *   ring 3 calls another one beside it, so that the page is in the TLB for ring 3;
 *   SMEP is turned on, and ring 3 calls the other one again;
 *   ring 3 goes through the gate: this is a page fault, whoever has what the function is.
 *
 * Says "gate: closed", or what else it was.
 */
typedef unsigned long long u64;

__attribute__((section(".multiboot"), used)) static const unsigned header[] = {
    0x1badb002, 0, -0x1badb002u,
};

#define ALIGNED __attribute__((aligned(4096), used))
static u64 level4[512] ALIGNED, level3[512] ALIGNED, level2[512] ALIGNED;
static u64 idt[256 * 2] ALIGNED, gdt[9] ALIGNED;
static unsigned tss[26] ALIGNED;
__attribute__((used)) static unsigned char stack[2][4096];

static struct __attribute__((packed)) {
    unsigned short limit;
    u64 base;
} gdtr __attribute__((used)), idtr __attribute__((used));

extern const char user[], user_end[], system_call[], page_fault[], other[];

#define FUNCTION    0x200000        /* and the other one 64 bytes behind */
#define RING3       0x201000

static u64 gate(u64 offset, u64 type)
{
    return (offset & 0xffff) | 8 << 16 | type << 40 | offset >> 16 << 48;
}

__attribute__((used)) static void tables(void)
{
    volatile unsigned char *function = (unsigned char *)FUNCTION;
    static const unsigned char code[] = { 0xb8, 7, 0, 0, 0, 0xc3 };

    level4[0] = (unsigned)level3 | 7;
    level3[0] = (unsigned)level2 | 7;
    level2[0] = 0x83;                           /* this kernel */
    level2[1] = FUNCTION | 0x87;                /* ring 3 may */
    gdt[1] = 0x00af9b000000ffff;                /* 08: code */
    gdt[2] = 0x00cf93000000ffff;                /* 10: data */
    gdt[3] = 0x00cff3000000ffff;                /* 18: data, ring 3 */
    gdt[4] = 0x00affb000000ffff;                /* 20: code, ring 3 */
    gdt[5] = ((u64)(unsigned)tss & 0xffffff) << 16 | 0x890000000067;
    gdt[7] = gate(FUNCTION, 0xec);              /* 38 */
    *(u64 *)&tss[1] = (unsigned)stack[1] + sizeof(stack[1]);
    for (int i = 0; i < 256; i++) {
        idt[2 * i] = gate((unsigned)other, 0x8e);
    }
    idt[2 * 14] = gate((unsigned)page_fault, 0x8e);
    idt[2 * 128] = gate((unsigned)system_call, 0xee);
    gdtr.limit = sizeof(gdt) - 1;
    gdtr.base = (unsigned)gdt;
    idtr.limit = sizeof(idt) - 1;
    idtr.base = (unsigned)idt;

    for (unsigned i = 0; i < sizeof(code); i++) {
        function[i] = code[i];
    }
    function[64] = 0xc3;
    for (unsigned i = 0; i < (unsigned)(user_end - user); i++) {
        ((volatile unsigned char *)RING3)[i] = user[i];
    }
}

__asm__(".globl _start\n"
"_start: cli\n"
"    mov $stack + 4096, %esp\n"
"    call tables\n"
"    mov $level4, %eax\n"
"    mov %eax, %cr3\n"
"    mov %cr4, %eax\n"
"    or $0x620, %eax\n"                     /* PAE, SSE */
"    mov %eax, %cr4\n"
"    mov $0xc0000080, %ecx\n"
"    rdmsr\n"
"    or $0x100, %eax\n"                     /* LME */
"    wrmsr\n"
"    mov %cr0, %eax\n"
"    or $0x80000000, %eax\n"
"    mov %eax, %cr0\n"
"    lgdt gdtr\n"
"    ljmp $8, $ring0\n"

".code64\n"
"ring0: mov $0x10, %eax\n"
"    mov %eax, %ds\n"
"    mov %eax, %es\n"
"    xor %eax, %eax\n"                     /* as behind the gate */
"    mov %eax, %ss\n"
"    mov $stack + 4096, %esp\n"
"    lidt idtr(%rip)\n"
"    mov $0x28, %eax\n"
"    ltr %ax\n"
"    mov $1000, %ebx\n"
"1:  mov $0x200000, %eax\n"
"    call *%rax\n"
"    dec %ebx\n"
"    jnz 1b\n"
"    push $0x1b\n"
"    push $0x210000\n"
"    push $2\n"
"    push $0x23\n"
"    push $0x201000\n"
"    iretq\n"

/* Copied to RING3 */
"user: mov $2, %ecx\n"
"1:  mov $1000, %ebx\n"
"2:  mov $0x200040, %eax\n"
"    call *%rax\n"
"    dec %ebx\n"
"    jnz 2b\n"
"    int $128\n"
"    dec %ecx\n"
"    jnz 1b\n"
"    lcall *3f(%rip)\n"
"    ud2\n"
"3:  .long 0\n"
"    .word 0x3b\n"
"user_end:\n"

"system_call: mov %cr4, %rax\n"
"    or $0x100000, %eax\n"                  /* SMEP */
"    mov %rax, %cr4\n"
"    iretq\n"

"page_fault: pop %rdx\n"
"    mov %cr2, %rax\n"
"    mov $opened, %esi\n"
"    cmp $0x200000, %rax\n"
"    jne say\n"
"    cmp $0x11, %edx\n"                     /* present, a fetch, ring 0 */
"    jne say\n"
"    mov $closed, %esi\n"
"    jmp say\n"
"other: mov $fault, %esi\n"
"say: mov $0x3f8, %edx\n"
"1:  lodsb\n"
"    test %al, %al\n"
"    jz 2f\n"
"    out %al, %dx\n"
"    jmp 1b\n"
"2:  hlt\n"
"    jmp 2b\n"
"closed: .asciz \"gate: closed\\n\"\n"
"opened: .asciz \"gate: open\\n\"\n"
"fault: .asciz \"gate: another fault\\n\"\n"
".code32\n");
