# The test guest: a floppy that fills memory, dirties a part of it, and beats.
#
# No kernel and no firmware services after the boot sector has loaded the rest.
# 32-bit protected mode, flat segments, no paging, one vCPU, one interrupt.
# image.py assembles this file and patches the parameter block; verify.py and
# heartbeat.py hold the other half of what is defined here.
#
# Physical memory
#   0x07c00  this code and the parameters
#   0x10000  status page, read from outside (verify.py)
#   0x11000  interrupt table;  0x12000..0x13000  stack, unless it is told another one;  0x13000  variables
#   1 MiB .. the pattern, one page after the other
#
# A page of the pattern is eight equal blocks of 512 bytes:
#   word 0 sequence | 1 page number | 2 seed | 3..126 filler | 127 check
#   base = page number * MUL_PAGE ^ seed
#   filler = base ^ FILLER,  check = sequence * MUL_SEQ ^ base
# The fill writes whole pages with sequence 0. A sweep rewrites only sequence and
# check, block by block, so that a high dirtying rate costs little and a page of
# which a part is older than the rest is seen.
#
# Serial line, at most two bytes a tick, both sent by the tick handler:
#   bit 7 clear   beat: the low seven bits of the tick count
#   0x80 | type   a message begins; 0x90 | nibble its payload, lowest nibble first;
#   0xa0 | xor of the nibbles ends it.  Payload: seed, ticks, position, sweep.
# Beats go on inside a message, therefore no message can hide a gap.

.set STATUS,        0x10000
.set ST_SEED,       STATUS + 12
.set ST_TICKS,      STATUS + 16
.set ST_POSITION,   STATUS + 24         # with ST_SWEEP one aligned quad word
.set ST_SWEEP,      STATUS + 28
.set ST_PAGES,      STATUS + 32
.set ST_WORKING,    STATUS + 36
.set IDT,           0x11000
.set STACK_TOP,     0x13000
.set VARIABLES,     0x13000             # no code beside them: an emulator is slow there
.set scratch,       VARIABLES           # a quad word
.set payload,       VARIABLES + 8       # of the message being sent
.set budget,        VARIABLES + 24      # pages granted, 16.16 fixed point
.set last_clock,    VARIABLES + 28
.set countdown,     VARIABLES + 32      # ticks to the next status message
.set pending,       VARIABLES + 36      # type of a message to send next
.set sending,       VARIABLES + 37      # nibbles left, and the end
.set parity,        VARIABLES + 38
.set BASE,          0x100000

.set MUL_PAGE,      0x9e3779b1
.set MUL_SEQ,       0x85ebca6b
.set FILLER,        0x5a3c96e1
.set FILLER_WORDS,  124

.set MSG_BOOT,      0x80
.set MSG_FILLED,    0x81
.set MSG_STATUS,    0x82
.set MSG_NO_MEMORY, 0x83
.set PAYLOAD_BYTES, 16

.set ONE_PAGE,      0x10000             # the budget is 16.16 fixed point
.set AS_FAST_AS_CAN, 0xffffffff
.set EXTRA_SECTORS, 3

.set COM1,          0x3f8
.set PIT_0,         0x40
.set PIT_2,         0x42
.set PIT_MODE,      0x43
.set PIC_1,         0x20
.set PIC_2,         0xa0
.set TICK_VECTOR,   0x20
.set CR4_PSE,       1 << 4

.code16
.globl _start
_start:
        cli
        cld
        xorw    %ax, %ax
        movw    %ax, %ds
        movw    %ax, %es
        movw    %ax, %ss
        movw    $0x7c00, %sp
        sti                             # the floppy driver of the firmware needs IRQ 6
        movw    $4, %bp
1:      movw    $(0x0200 | EXTRA_SECTORS), %ax
        movw    $0x0002, %cx            # cylinder 0, sector 2
        movb    $0, %dh                 # head 0; the firmware left the drive in dl
        movw    $0x7e00, %bx
        int     $0x13
        jnc     2f
        xorw    %ax, %ax                # reset the drive, try again
        int     $0x13
        decw    %bp
        jnz     1b
3:      hlt
        jmp     3b
2:      cli
        inb     $0x92, %al              # open the A20 gate; bit 0 would reset
        orb     $2, %al
        andb    $0xfe, %al
        outb    %al, $0x92
        lgdt    gdt_pointer
        movl    %cr0, %eax
        andl    $~0x0c, %eax            # no x87 emulation: one movq is used
        orl     $1, %eax
        movl    %eax, %cr0
        ljmp    $0x08, $protected

.align 8
gdt:    .quad   0
        .quad   0x00cf9a000000ffff      # code, 4 GiB
        .quad   0x00cf92000000ffff      # data, 4 GiB
gdt_pointer:
        .word   . - gdt - 1
        .long   gdt
idt_pointer:
        .word   8 * 48 - 1
        .long   IDT

# Parameters; image.py knows the offset, the magic and the order.
.org 0x180
        .ascii  "PCGUEST1"
p_seed:         .long 0
p_pages:        .long 0                 # pages of the pattern, counted from 1 MiB
p_working:      .long 0                 # of these, the ones rewritten
p_divisor:      .long 0                 # of the PIT, for one tick
p_step:         .long 0                 # 8.24 fixed point: pages a PIT clock; 0 idle
p_backlog:      .long 0                 # 16.16 fixed point: most pages granted at once
p_interval:     .long 0                 # ticks from one status message to the next
p_flush:        .long 0                 # not 0: drop the TLB at each tick
p_stack:        .long STACK_TOP         # the first address above it
.org 0x1fe
        .word   0xaa55

.code32
protected:
        movw    $0x10, %ax
        movw    %ax, %ds
        movw    %ax, %es
        movw    %ax, %ss
        movl    p_stack, %esp
        movl    $VARIABLES, %edi
        xorl    %eax, %eax
        movl    $1024, %ecx
        rep stosl
        call    init_status
        call    init_interrupts
        call    init_serial
        call    init_clocks
        movb    $MSG_BOOT, pending
        sti
        call    fill
        movl    $1, %ecx                # sweep 1, position 0: the fill is over
        xorl    %eax, %eax
        call    publish
        movl    $0, budget              # what was granted while filling is void
        movb    $MSG_FILLED, pending
        cmpl    $0, p_step
        je      idle
        cmpl    $0, p_working
        jne     sweep
idle:   hlt
        jmp     idle

# The seed differs at every boot, also when one image boots twice.
init_status:
        movl    $STATUS, %edi
        xorl    %eax, %eax
        movl    $1024, %ecx
        rep stosl
        rdtsc
        xorl    p_seed, %eax
        movl    %eax, ST_SEED
        movl    p_pages, %eax
        movl    %eax, ST_PAGES
        movl    p_working, %eax
        movl    %eax, ST_WORKING
        movl    $1, STATUS + 8          # version of this layout
        movl    $0x54534350, STATUS     # "PCSTATUS"
        movl    $0x53555441, STATUS + 4
        ret

# Vectors 0..31 stay absent: a fault resets the machine, and the second boot
# message tells the listener.
init_interrupts:
        movl    $IDT, %edi
        xorl    %eax, %eax
        movl    $(48 * 2), %ecx
        rep stosl
        movl    $(IDT + 8 * TICK_VECTOR), %edi
        movl    $tick, %eax
        call    set_gate
        movl    $15, %edx
1:      movl    $spurious, %eax
        call    set_gate
        decl    %edx
        jnz     1b
        lidt    idt_pointer
        movb    $0x11, %al              # remap both controllers to 0x20 and 0x28
        outb    %al, $PIC_1
        outb    %al, $PIC_2
        movb    $TICK_VECTOR, %al
        outb    %al, $(PIC_1 + 1)
        movb    $(TICK_VECTOR + 8), %al
        outb    %al, $(PIC_2 + 1)
        movb    $4, %al
        outb    %al, $(PIC_1 + 1)
        movb    $2, %al
        outb    %al, $(PIC_2 + 1)
        movb    $1, %al
        outb    %al, $(PIC_1 + 1)
        outb    %al, $(PIC_2 + 1)
        movb    $0xfe, %al              # only the timer
        outb    %al, $(PIC_1 + 1)
        movb    $0xff, %al
        outb    %al, $(PIC_2 + 1)
        ret

# Write a 32-bit interrupt gate to eax at edi; edi moves on.
set_gate:
        movw    %ax, (%edi)
        movw    $0x08, 2(%edi)
        movw    $0x8e00, 4(%edi)
        shrl    $16, %eax
        movw    %ax, 6(%edi)
        addl    $8, %edi
        ret

init_serial:
        movw    $(COM1 + 1), %dx
        xorb    %al, %al
        outb    %al, %dx                # no interrupts
        movw    $(COM1 + 3), %dx
        movb    $0x80, %al
        outb    %al, %dx                # divisor latch: 115200 baud
        movw    $COM1, %dx
        movb    $1, %al
        outb    %al, %dx
        movw    $(COM1 + 1), %dx
        xorb    %al, %al
        outb    %al, %dx
        movw    $(COM1 + 3), %dx
        movb    $3, %al
        outb    %al, %dx                # 8N1
        movw    $(COM1 + 2), %dx
        movb    $7, %al
        outb    %al, %dx                # FIFO: a listener that is slow for a
        movw    $(COM1 + 4), %dx        # moment costs no beat
        movb    $3, %al
        outb    %al, %dx
        ret

# Channel 0 ticks. Channel 2 runs freely as a clock: an emulator that is late
# merges ticks, and the dirtying rate must not fall with them.
init_clocks:
        inb     $0x61, %al
        andb    $0xfc, %al
        orb     $1, %al                 # gate of channel 2 on, speaker off
        outb    %al, $0x61
        movb    $0xb4, %al              # channel 2, both bytes, mode 2
        outb    %al, $PIT_MODE
        xorb    %al, %al
        outb    %al, $PIT_2
        outb    %al, $PIT_2
        call    read_clock
        movl    %eax, last_clock
        movb    $0x34, %al              # channel 0, both bytes, mode 2
        outb    %al, $PIT_MODE
        movl    p_divisor, %eax
        outb    %al, $PIT_0
        movb    %ah, %al
        outb    %al, $PIT_0
        ret

# The count of channel 2, which falls, in eax.
read_clock:
        movb    $0x80, %al              # latch
        outb    %al, $PIT_MODE
        xorl    %eax, %eax
        inb     $PIT_2, %al
        movb    %al, %ah
        inb     $PIT_2, %al
        xchgb   %al, %ah
        ret

# Position eax and sweep ecx as one store: whoever stops the machine between any
# two instructions finds a pair that belongs together.
publish:
        movl    %eax, scratch
        movl    %ecx, scratch + 4
        movq    scratch, %mm0
        movq    %mm0, ST_POSITION
        ret

# In: esi page counted from 1 MiB.  Out: ebx address, edx base word.
locate:
        movl    %esi, %ebx
        shll    $12, %ebx
        addl    $BASE, %ebx
        movl    %ebx, %edx
        shrl    $12, %edx
        imull   $MUL_PAGE, %edx
        xorl    ST_SEED, %edx
        ret

fill:
        xorl    %esi, %esi
1:      cmpl    p_pages, %esi
        jae     4f
        call    locate
        movl    %ebx, %edi
        leal    4096(%ebx), %ebp
2:      movl    %ebx, %eax
        shrl    $12, %eax
        movl    $0, (%edi)
        movl    %eax, 4(%edi)
        movl    ST_SEED, %eax
        movl    %eax, 8(%edi)
        movl    %edx, %eax
        xorl    $FILLER, %eax
        movl    $FILLER_WORDS / 4, %ecx # not rep stosl: an emulator is slow at it
3:      movl    %eax, 12(%edi)          # and lets few interrupts in
        movl    %eax, 16(%edi)
        movl    %eax, 20(%edi)
        movl    %eax, 24(%edi)
        addl    $16, %edi
        decl    %ecx
        jnz     3b
        movl    %edx, 12(%edi)          # the check word of sequence 0
        addl    $16, %edi
        cmpl    %ebp, %edi
        jb      2b
        cmpl    %edx, -4(%edi)          # memory that is not there reads as ones
        jne     no_memory
        incl    %esi
        movl    %esi, %eax
        xorl    %ecx, %ecx
        call    publish
        jmp     1b
4:      ret

no_memory:
        movb    $MSG_NO_MEMORY, pending
        jmp     idle

sweep:
        xorl    %esi, %esi
        movl    $1, %ecx
next_page:
        cmpl    $AS_FAST_AS_CAN, p_step
        je      write_page
        cmpl    $ONE_PAGE, budget
        jb      wait_for_budget
        subl    $ONE_PAGE, budget
write_page:
        call    locate
        imull   $MUL_SEQ, %ecx, %eax
        xorl    %edx, %eax
        .set    block, 0
        .rept   8
        movl    %ecx, block(%ebx)
        movl    %eax, (block + 508)(%ebx)
        .set    block, block + 512
        .endr
        incl    %esi
        cmpl    p_working, %esi
        jb      1f
        xorl    %esi, %esi
        incl    %ecx
1:      movl    %esi, %eax
        call    publish
        jmp     next_page

wait_for_budget:
        cli                             # look again: a tick between the look and
        cmpl    $ONE_PAGE, budget       # the halt would cost a whole tick
        jae     1f
        sti
        hlt
        jmp     next_page
1:      sti
        jmp     next_page

# One tick: count it, say it, send one byte of a message, grant pages.
#
# Why the TLB is flushed: the emulator's dirty log can miss writes to a page that
# stays in its TLB, here stack, variables and status page, and the destination then
# gets them some hundred ticks old. Seen with QEMU 5.2, 7.2 and 11.1, not with 10.0;
# upstream fixed it in 9.0 (commit 03bfc2188f, "physmem: Fix migration dirty bitmap
# coherency with TCG memory access"), and flushing cures all of them. The hardware
# has no such log, and real guests flush all the time.
tick:
        pushal
        movb    $0x20, %al
        outb    %al, $PIC_1
        movl    ST_TICKS, %eax
        incl    %eax
        movl    %eax, ST_TICKS          # before the beat: the page is never behind
        andb    $0x7f, %al              # what was heard
        movw    $COM1, %dx
        outb    %al, %dx
        call    send_message
        cmpl    $0, p_flush
        je      1f
        movl    %cr4, %eax
        xorl    $CR4_PSE, %eax          # paging is off: this flushes and does no more
        movl    %eax, %cr4
1:      movl    p_step, %eax
        testl   %eax, %eax
        jz      2f
        cmpl    $AS_FAST_AS_CAN, %eax
        je      2f
        call    grant
2:      popal
        iret

spurious:
        iret

# Pages for the time since the last grant. A stop of more than 55 ms is granted
# modulo 55 ms, and p_backlog caps what adds up while pages are slow to write: a
# guest that was held up does not make up for all of it at once.
grant:
        call    read_clock
        movl    last_clock, %ecx
        movl    %eax, last_clock
        subl    %eax, %ecx
        andl    $0xffff, %ecx
        movl    p_step, %eax
        mull    %ecx                    # 24 bits of fraction
        shrdl   $8, %edx, %eax          # 16 bits of fraction
        shrl    $8, %edx
        jnz     1f
        addl    budget, %eax
        jc      1f
        cmpl    p_backlog, %eax
        jbe     2f
1:      movl    p_backlog, %eax
2:      movl    %eax, budget
        ret

# At most one byte. A message is a snapshot of the tick it starts at.
send_message:
        cmpb    $0, sending
        jne     next_nibble
        movb    pending, %al
        movb    $0, pending
        testb   %al, %al
        jnz     1f
        decl    countdown
        jg      3f
        movb    $MSG_STATUS, %al
1:      movl    p_interval, %ecx
        movl    %ecx, countdown
        outb    %al, %dx
        movl    ST_SEED, %eax
        movl    %eax, payload
        movl    ST_TICKS, %eax
        movl    %eax, payload + 4
        movl    ST_POSITION, %eax
        movl    %eax, payload + 8
        movl    ST_SWEEP, %eax
        movl    %eax, payload + 12
        movb    $(2 * PAYLOAD_BYTES + 1), sending
        movb    $0, parity
3:      ret
next_nibble:
        movzbl  sending, %ecx
        decl    %ecx
        movb    %cl, sending
        jz      4f
        movl    $(2 * PAYLOAD_BYTES), %ebx
        subl    %ecx, %ebx              # nibble 0, 1, 2 …
        movl    %ebx, %ecx
        shrl    $1, %ebx
        movb    payload(%ebx), %al
        testb   $1, %cl
        jz      5f
        shrb    $4, %al
5:      andb    $0x0f, %al
        xorb    %al, parity
        orb     $0x90, %al
        outb    %al, %dx
        ret
4:      movb    parity, %al
        orb     $0xa0, %al
        outb    %al, %dx
        ret

.org 512 * (1 + EXTRA_SECTORS)
