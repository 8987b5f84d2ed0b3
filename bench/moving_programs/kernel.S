/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * A kernel that runs snippets of code, each from the same state, and sums up what each left behind.
 *
 * QEMU loads it by its multiboot header to LOAD. Behind it, at PROGRAM, lies what
 * image.py makes: ten numbers, the page tables, the list of snippets and
 * their code. Nothing of this kernel is mapped where snippets can reach it: it sees all memory
 * from KERNEL on. Whatever a snippet does, it ends in an exception, which comes here.
 */
	.set	LOAD, 0x100000
	.set	PROGRAM, 0x110000
	.set	KERNEL, 0x400000000000

	/* what stands at PROGRAM; addresses are physical */
	.set	P_CR3, 0
	.set	P_COUNT, 8
	.set	P_ENTRIES, 16
	.set	P_RESULTS, 24
	.set	P_PRISTINE, 32
	.set	P_ARENA, 40
	.set	P_ARENA_BYTES, 48
	.set	P_XSAVE, 56
	.set	P_CR0, 64
	.set	P_CR4, 72

	/* a snippet in the list: 32 bytes */
	.set	E_RIP, 0
	.set	E_FLAGS, 8
	.set	E_CS, 12
	.set	E_SS, 14
	.set	E_REGS, 16
	.set	E_CS_BASE, 24

	/* what it left: 64 bytes */
	.set	R_VECTOR, 0
	.set	R_ERROR, 4
	.set	R_RIP, 8
	.set	R_CR2, 16
	.set	R_FLAGS, 24
	.set	R_GENERAL, 32
	.set	R_VECTORS, 40
	.set	R_ARENA, 48
	.set	R_NUMBER, 56

	/* segments: GDT below */
	.set	CODE64, 0x08
	.set	DATA, 0x10
	.set	USER_DATA, 0x2b
	.set	TSS, 0x58

	.set	FS_BASE, 0x20000000
	.set	GS_BASE, 0x70001000
	.set	XSAVE_BYTES, 1088
	/* x87, SSE, AVX, both parts of MPX */
	.set	XCR0, 0x1f

	.text
	.code32
header:	.long	0x1badb002, 0x00010000, -(0x1badb002 + 0x00010000)
	.long	header, LOAD, 0, 0, start

/* The one page of this kernel that lies at its own address once paging is on: see image.py. */
	.globl	start
start:	cli
	mov	$0xff, %al			/* the timer never interrupts */
	out	%al, $0x21
	out	%al, $0xa1
	mov	PROGRAM + P_CR3, %eax
	mov	%eax, %cr3
	mov	%cr4, %eax
	or	$0x40620, %eax			/* OSXSAVE, OSXMMEXCPT, OSFXSR, PAE */
	or	PROGRAM + P_CR4, %eax
	mov	%eax, %cr4
	mov	$0xc0000080, %ecx
	rdmsr
	or	$0x900, %eax			/* NXE, LME */
	wrmsr
	mov	%cr0, %eax
	and	$~0x6000000c, %eax		/* caches on, no TS, no EM */
	or	$0x80010022, %eax		/* PG, WP, NE, MP */
	or	PROGRAM + P_CR0, %eax
	mov	%eax, %cr0
	lgdt	boot_gdtr
	ljmp	$CODE64, $long_mode
boot_gdtr:
	.word	gdt_end - gdt - 1
	.long	gdt
	.balign	8
gdt:	.quad	0
	.quad	0x00af9b000000ffff		/* 08: 64-bit code */
	.quad	0x00cf93000000ffff		/* 10: data */
	.quad	0x00cf9b000000ffff		/* 18: 32-bit code */
	.quad	0x008f9b000000ffff		/* 20: 16-bit code, its base comes with each snippet */
	.quad	0x00cff3000000ffff		/* 28: data, ring 3 */
	.quad	0x00affb000000ffff		/* 30: 64-bit code, ring 3 */
	.quad	0x00cffb000000ffff		/* 38: 32-bit code, ring 3 */
	.quad	0x008ffb000000ffff		/* 40: 16-bit code, ring 3 */
	.quad	0x000093080000ffff		/* 48: stack of 16 bits, at 0x80000 */
	.quad	0x0000f3080000ffff		/* 50: the same, ring 3 */
gdt_tss:
	.quad	0x0000890000000067, 0		/* 58: TSS */
gdt_end:
	.code64
long_mode:
	movabs	$KERNEL + high, %rax
	jmp	*%rax

high:	mov	$DATA, %eax
	mov	%eax, %ss
	lea	stack_top(%rip), %rsp
	lea	gdt(%rip), %rax
	mov	%rax, gdtr + 2(%rip)
	lgdt	gdtr(%rip)
	call	make_idt
	call	make_tss
	xor	%ecx, %ecx
	xor	%edx, %edx
	mov	$XCR0, %eax
	xsetbv
	mov	$0xd90, %ecx			/* BNDCFGS: MPX on */
	mov	$1, %eax
	wrmsr
	mov	%cr0, %rax
	mov	%rax, cr0(%rip)
	jmp	next

make_idt:
	lea	stubs(%rip), %rax
	lea	idt(%rip), %rdi
	mov	$32, %ecx
1:	mov	%ax, (%rdi)
	movw	$CODE64, 2(%rdi)
	movw	$0xee01, 4(%rdi)		/* IST 1, ring 3 may, as INT3 does */
	mov	%rax, %rdx
	shr	$16, %rdx
	mov	%dx, 6(%rdi)
	shr	$16, %rdx
	mov	%rdx, 8(%rdi)
	add	$16, %rax
	add	$16, %rdi
	loop	1b
	lea	idt(%rip), %rax
	mov	%rax, idtr + 2(%rip)
	lidt	idtr(%rip)
	ret

make_tss:
	lea	ist_top(%rip), %rax
	mov	%rax, tss + 36(%rip)
	lea	tss(%rip), %rax
	mov	%ax, gdt_tss + 2(%rip)
	shr	$16, %rax
	mov	%al, gdt_tss + 4(%rip)
	mov	%ah, gdt_tss + 7(%rip)
	shr	$16, %rax
	mov	%eax, gdt_tss + 8(%rip)
	mov	$TSS, %eax
	ltr	%ax
	ret

/* Go on with the snippet whose number is in `number`. */
next:	movabs	$KERNEL, %r14
	lea	PROGRAM(%r14), %r13
	lea	stack_top(%rip), %rsp
	call	restore
	mov	number(%rip), %rbx
	cmp	P_COUNT(%r13), %rbx
	jae	done
	incq	number(%rip)
	shl	$5, %rbx
	add	P_ENTRIES(%r13), %rbx
	add	%r14, %rbx

	lea	gdt(%rip), %rdi
	mov	E_CS_BASE(%rbx), %eax
	mov	%ax, 0x22(%rdi)
	mov	%ax, 0x42(%rdi)
	shr	$16, %eax
	mov	%al, 0x24(%rdi)
	mov	%al, 0x44(%rdi)
	mov	%ah, 0x27(%rdi)
	mov	%ah, 0x47(%rdi)

	mov	E_REGS(%rbx), %r15
	add	%r14, %r15
	movzwl	E_SS(%rbx), %eax
	push	%rax
	push	4 * 8(%r15)
	mov	E_FLAGS(%rbx), %eax
	push	%rax
	movzwl	E_CS(%rbx), %eax
	push	%rax
	push	E_RIP(%rbx)
	mov	0 * 8(%r15), %rax
	mov	1 * 8(%r15), %rcx
	mov	2 * 8(%r15), %rdx
	mov	3 * 8(%r15), %rbx
	mov	5 * 8(%r15), %rbp
	mov	6 * 8(%r15), %rsi
	mov	7 * 8(%r15), %rdi
	mov	8 * 8(%r15), %r8
	mov	9 * 8(%r15), %r9
	mov	10 * 8(%r15), %r10
	mov	11 * 8(%r15), %r11
	mov	12 * 8(%r15), %r12
	mov	13 * 8(%r15), %r13
	mov	14 * 8(%r15), %r14
	mov	15 * 8(%r15), %r15
	iretq

/* Memory, segments and vector registers as they are before each snippet. */
restore:
	mov	P_PRISTINE(%r13), %rsi
	add	%r14, %rsi
	mov	P_ARENA(%r13), %rdi
	add	%r14, %rdi
	mov	P_ARENA_BYTES(%r13), %rcx
1:	movaps	(%rsi), %xmm0
	movaps	16(%rsi), %xmm1
	movaps	32(%rsi), %xmm2
	movaps	48(%rsi), %xmm3
	movaps	%xmm0, (%rdi)
	movaps	%xmm1, 16(%rdi)
	movaps	%xmm2, 32(%rdi)
	movaps	%xmm3, 48(%rdi)
	add	$64, %rsi
	add	$64, %rdi
	sub	$64, %rcx
	jnz	1b
	mov	P_XSAVE(%r13), %rsi
	add	%r14, %rsi
	mov	$XCR0, %eax
	xor	%edx, %edx
	xrstor64 (%rsi)
	mov	$USER_DATA, %eax
	mov	%eax, %ds
	mov	%eax, %es
	mov	%eax, %fs
	mov	%eax, %gs
	xor	%edx, %edx
	mov	$0xc0000100, %ecx
	mov	$FS_BASE, %eax
	wrmsr
	inc	%ecx
	mov	$GS_BASE, %eax
	wrmsr
	ret

/* An exception: vector and error code are on the stack, above what the processor pushed. */
exception:
	push	%r15
	push	%r14
	push	%r13
	push	%r12
	push	%r11
	push	%r10
	push	%r9
	push	%r8
	push	%rdi
	push	%rsi
	push	%rbp
	push	%rbx
	push	%rdx
	push	%rcx
	push	%rax
	.set	F_VECTOR, 15 * 8
	.set	F_ERROR, 16 * 8
	.set	F_RIP, 17 * 8
	.set	F_FLAGS, 19 * 8
	.set	F_WORDS, 22
	cld
	movabs	$KERNEL, %r14
	lea	PROGRAM(%r14), %r13
	mov	F_RIP(%rsp), %rax
	sub	%r14, %rax
	shr	$26, %rax			/* all memory is 64 MiB */
	jz	own_fault

	mov	number(%rip), %rbx
	lea	-1(%rbx), %r12
	shl	$6, %r12
	add	P_RESULTS(%r13), %r12
	add	%r14, %r12
	mov	%rbx, R_NUMBER(%r12)
	mov	F_VECTOR(%rsp), %rax
	mov	%eax, R_VECTOR(%r12)
	xor	%ecx, %ecx
	cmp	$14, %eax
	jne	1f
	mov	%cr2, %rcx
1:	mov	%rcx, R_CR2(%r12)
	mov	F_ERROR(%rsp), %rax
	mov	%eax, R_ERROR(%r12)
	mov	F_RIP(%rsp), %rax
	mov	%rax, R_RIP(%r12)
	mov	F_FLAGS(%rsp), %rax
	mov	%rax, R_FLAGS(%r12)

	mov	%rsp, %rsi
	mov	$F_WORDS, %ecx
	call	sum
	mov	%rax, R_GENERAL(%r12)

	/* parts that are in their initial state are not written */
	lea	xsave(%rip), %rdi
	xor	%eax, %eax
	mov	$XSAVE_BYTES / 8, %ecx
	rep stosq
	lea	xsave(%rip), %rsi
	mov	$XCR0, %eax
	xor	%edx, %edx
	xsave64	(%rsi)
	mov	$XSAVE_BYTES / 8, %ecx
	call	sum
	mov	%rax, R_VECTORS(%r12)

	mov	P_ARENA(%r13), %rsi
	add	%r14, %rsi
	mov	P_ARENA_BYTES(%r13), %rcx
	shr	$3, %rcx
	call	sum
	mov	%rax, R_ARENA(%r12)

	mov	%cr0, %rax
	cmp	cr0(%rip), %rax
	je	next
	mov	cr0(%rip), %rax
	mov	%rax, %cr0
	jmp	next

/* rax: of the rcx words of 64 bits at rsi, an even number */
sum:	mov	$1, %eax
	movabs	$0x9e3779b97f4a7c15, %rdx
1:	xor	(%rsi), %rax
	imul	%rdx, %rax
	rol	$29, %rax
	xor	8(%rsi), %rax
	imul	%rdx, %rax
	rol	$29, %rax
	add	$16, %rsi
	sub	$2, %rcx
	jnz	1b
	ret

done:	mov	P_RESULTS(%r13), %rsi
	add	%r14, %rsi
	mov	P_COUNT(%r13), %rcx
	shl	$3, %rcx
	call	sum
	mov	%rax, %rbx
	lea	text_done(%rip), %rsi
	call	print
	mov	%rbx, %rdi
	call	print_hex
	jmp	end

/* No snippet may do that: the program is wrong, or what ran it. */
own_fault:
	mov	%rsp, %rbp
	lea	text_fault(%rip), %rsi
	call	print
	mov	F_VECTOR(%rbp), %rdi
	call	print_hex
	mov	F_RIP(%rbp), %rdi
	call	print_hex
	mov	number(%rip), %rdi
	call	print_hex
end:	lea	text_end(%rip), %rsi
	call	print
1:	hlt
	jmp	1b

print:	mov	$0x3f8, %edx
1:	lodsb
	test	%al, %al
	jz	2f
	out	%al, %dx
	jmp	1b
2:	ret

print_hex:
	mov	$0x3f8, %edx
	mov	$' ', %al
	out	%al, %dx
	mov	$16, %ecx
1:	rol	$4, %rdi
	mov	%edi, %eax
	and	$15, %eax
	add	$'0', %al
	cmp	$'9', %al
	jbe	2f
	add	$'a' - '0' - 10, %al
2:	out	%al, %dx
	loop	1b
	ret

	.balign	16
stubs:
	.set	n, 0
	.rept	32
	.balign	16
	.if	!(n == 8 || (n >= 10 && n <= 14) || n == 17 || n == 21 || n == 29 || n == 30)
	pushq	$0
	.endif
	pushq	$n
	jmp	exception
	.set	n, n + 1
	.endr

text_done:
	.asciz	"moving: done"
text_fault:
	.asciz	"moving: fault"
text_end:
	.asciz	"\n"

	.balign	8
number:	.quad	0
cr0:	.quad	0
gdtr:	.word	gdt_end - gdt - 1
	.quad	0
idtr:	.word	32 * 16 - 1
	.quad	0
	.balign	16
idt:	.fill	32 * 16
tss:	.fill	104
	.balign	64
xsave:	.fill	XSAVE_BYTES
	.fill	4096
stack_top:
	.fill	4096
ist_top:
