# A guest for the driver's tests: boots in milliseconds, needs no kernel. It takes a nonce that is nowhere but in its memory, and
# writes "NONCE COUNTER" to the serial port, the counter one higher each time. So whoever reads two lines knows whether the second
# is from the same life, and whether time went on.

    .code32

    # Where QEMU's firmware enters (PVH): 32-bit protected mode, no paging.
    .section .note.Xen, "a", @note
    .align 4
    .long 4, 4, 18
    .asciz "Xen"
    .long start

    .text
    .globl start
start:
    cli
    movl $stack_top, %esp
    rdtsc
    movl %eax, nonce
    movl $0, counter
line:
    incl counter
    movl nonce, %ebx
    call hex
    movb $' ', %al
    call put
    movl counter, %ebx
    call hex
    movb $'\n', %al
    call put
    # Some ten milliseconds, counted by the processor's clock.
    rdtsc
    leal 25000000(%eax), %esi
wait:
    rdtsc
    subl %esi, %eax
    js wait
    jmp line

hex:                            # writes %ebx
    movl $8, %ecx
1:  roll $4, %ebx
    movb %bl, %al
    andb $15, %al
    addb $'0', %al
    cmpb $'9', %al
    jbe 2f
    addb $('a' - '9' - 1), %al
2:  call put
    loop 1b
    ret

put:                            # writes %al
    movw $0x3f8, %dx
    outb %al, %dx
    ret

    .bss
nonce:
    .long 0
counter:
    .long 0
    .skip 4096
stack_top:
