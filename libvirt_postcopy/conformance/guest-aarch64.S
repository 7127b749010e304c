# The guest of guest.S for the machine type `virt` of aarch64: it does the same, with the same words in memory.
#
# It is loaded 1 MiB into RAM, behind the device tree that QEMU leaves there, and begins at its first byte, on the first
# vCPU alone, at EL1 with the MMU off.  The MMU is switched on for the caches: memory is written as whoever reads it from outside
# under KVM sees it.  Its table maps 4 GiB in four blocks: the devices below 1 GiB, RAM above.
#
# The TLB is flushed after each page, for the reason that guest.S gives.
.set FILLER, 0x5A3C96E1
.set UART, 0x09000000                   // PL011
.set MEMORY, 0x40200000
.set DEVICE, 0x01 | 1 << 10 | 1 << 54   // a block, accessed, never executed; attribute 0
.set NORMAL, 0x01 | 1 << 2 | 3 << 8 | 1 << 10   // attribute 1, inner shareable
.globl _start
_start:
base:
        b       real
        .ascii  "PCF1"
fill_pages:     .word 0
working_pages:  .word 0
multiplier:     .word 1
increment:      .word 1
delay:          .word 0
real:
        msr     daifset, #15
        mov     x0, #0xff00             // attribute 0: device; 1: normal, write-back
        msr     mair_el1, x0
        ldr     x0, tcr
        msr     tcr_el1, x0
        adr     x0, table
        msr     ttbr0_el1, x0
        tlbi    vmalle1
        ic      iallu
        dsb     sy
        isb
        mrs     x0, sctlr_el1
        mov     x1, #0x1005             // instruction cache, data cache, MMU
        orr     x0, x0, x1
        msr     sctlr_el1, x0
        isb
        mov     w10, #UART
        mov     w0, #0x70               // 8 bits, FIFO
        str     w0, [x10, #0x2c]
        mov     w0, #0x101              // on, with its transmitter
        str     w0, [x10, #0x30]
        mov     w11, #MEMORY
        ldr     w12, filler
        mov     w0, #'A'
        str     w0, [x10]
        mov     x1, x11
        ldr     w2, fill_pages
1:      cbz     w2, 3f
        eor     w3, w1, w12
        orr     x3, x3, x3, lsl #32
        mov     w4, #4096 / 16
2:      stp     x3, x3, [x1], #16
        subs    w4, w4, #1
        b.ne    2b
        sub     w2, w2, #1
        b       1b
3:      mov     w0, #'F'
        str     w0, [x10]
        ldr     w5, working_pages
        cbz     w5, idle
        sub     w5, w5, #1              // the mask
        ldr     w6, multiplier
        ldr     w7, increment
        mov     w8, #0                  // the sweep
        mov     w9, #0                  // i
sweep:
        add     w8, w8, #1
page:
        add     x1, x11, x9, lsl #12
        str     w8, [x1]
        eor     w3, w8, w1
        str     w3, [x1, #4092]
        tlbi    vmalle1
        dsb     sy
        isb
        ldr     w4, delay
4:      cbz     w4, 5f
        sub     w4, w4, #1
        b       4b
5:      madd    w9, w9, w6, w7
        ands    w9, w9, w5
        b.ne    page                    // i is 0 again after each page has had its turn
        mov     w0, #'B'
        str     w0, [x10]
        b       sweep
idle:
        wfi
        b       idle
.align 3
tcr:    .quad   32 | 1 << 8 | 1 << 10 | 3 << 12 | 1 << 23       // 4 GiB below, 4 KiB pages, walks through the caches; nothing above
filler: .word   FILLER
.align 6
table:
        .quad   0x00000000 + DEVICE
        .quad   0x40000000 + NORMAL
        .quad   0x80000000 + NORMAL
        .quad   0xc0000000 + NORMAL
