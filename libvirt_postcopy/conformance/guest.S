# The firmware of the guest whose memory is checked: it is the whole machine's software, so a guest works within milliseconds.
#
# It fills FILL pages from 1 MiB on, each with its own address xor FILLER in every word, and then goes over the first
# WORKING of them for ever: sweep n writes n into the first word of a page and n xor the address into the last.  The order within a
# sweep is i = i * MULTIPLIER + INCREMENT modulo WORKING, a power of two: 1, 1 is one after the other, 5, 3 looks random
# and still meets every page once.  Serial port: A started, F filled, then B after each sweep.
#
# The emulator's dirty log of QEMU before 9.0 can miss writes to a page that stays in its TLB (commit 03bfc2188f, "physmem:
# Fix migration dirty bitmap coherency with TCG memory access"), so the TLB is flushed after each page by changing CR4.
.set FILLER, 0x5A3C96E1
.set COM1, 0x3f8
.code16
.globl _start
_start:
base:
        .ascii  "PCFW0001"
fill_pages:     .long 0
working_pages:  .long 0
multiplier:     .long 1
increment:      .long 1
delay:          .long 0
real:
        cli
        lgdtl   %cs:(gdt_pointer - base)
        movl    %cr0, %eax
        orl     $1, %eax
        movl    %eax, %cr0
        ljmpl   $8, $(protected - base + 0xf0000)
.code32
protected:
        movw    $16, %ax
        movw    %ax, %ds
        movw    %ax, %es
        movw    %ax, %ss
        inb     $0x92, %al              # A20
        orb     $2, %al
        andb    $0xfe, %al
        outb    %al, $0x92
        movw    $COM1, %dx
        movb    $'A', %al
        outb    %al, %dx
        cld
        movl    $0x100000, %edi
        movl    0xf0000 + fill_pages - base, %ebx
1:      testl   %ebx, %ebx
        jz      2f
        movl    %edi, %eax
        xorl    $FILLER, %eax
        movl    $1024, %ecx
        rep stosl
        decl    %ebx
        jmp     1b
2:      movb    $'F', %al
        outb    %al, %dx
        movl    0xf0000 + working_pages - base, %ecx
        testl   %ecx, %ecx
        jz      idle
        decl    %ecx                    # the mask
        xorl    %ebp, %ebp              # the sweep
        xorl    %esi, %esi              # i
sweep:
        incl    %ebp
page:
        movl    %esi, %ebx
        shll    $12, %ebx
        addl    $0x100000, %ebx
        movl    %ebp, (%ebx)
        movl    %ebp, %eax
        xorl    %ebx, %eax
        movl    %eax, 4092(%ebx)
        movl    %cr4, %eax
        xorl    $0x10, %eax             # PSE; paging is off
        movl    %eax, %cr4
        movl    0xf0000 + delay - base, %edi
3:      testl   %edi, %edi
        jz      4f
        decl    %edi
        jmp     3b
4:      imull   0xf0000 + multiplier - base, %esi
        addl    0xf0000 + increment - base, %esi
        andl    %ecx, %esi
        jnz     page                    # i is 0 again after each page has had its turn
        movb    $'B', %al
        outb    %al, %dx
        jmp     sweep
idle:
        hlt
        jmp     idle
.align 8
gdt:
        .quad   0
        .quad   0x00cf9a000000ffff
        .quad   0x00cf92000000ffff
gdt_pointer:
        .word   23
        .long   gdt - base + 0xf0000
.code16
.org 0xfff0
        ljmp    $0xf000, $(real - base)
.org 0x10000
