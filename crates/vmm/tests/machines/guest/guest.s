# A guest for the driver's tests: boots in milliseconds, needs no kernel. It takes a nonce that is nowhere but in its memory, and
# writes "NONCE COUNTER" to the serial port, the counter one higher each time. So whoever reads two lines knows whether the second
# is from the same life, and whether time went on.
#
# It also keeps a ring of pages: with each count one page gets the count, and the one that got it 32 counts ago is zeroed. All of the
# ring is checked with each count, and so is one word above 4 GB where there is memory; what is not as it was left is told as "BAD".

    .code32

    .set ring, 0x2000000        # 64 pages at 32 MB
    .set high, 0x40000000       # virtual: a window on the first 2 MB above 4 GB

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
    cld
    movl $stack_top, %esp
    rdtsc
    movl %eax, nonce
    movl $0, counter

    # Pages of 2 MB: the first gigabyte as it is, then the window.
    movl $directory_low, %edi
    movl $0x83, %eax
1:  movl %eax, (%edi)
    movl $0, 4(%edi)
    addl $8, %edi
    addl $0x200000, %eax
    cmpl $0x40000083, %eax
    jne 1b
    movl $0x83, directory_high
    movl $1, directory_high + 4
    movl $directory_low + 1, pointers
    movl $directory_high + 1, pointers + 8
    movl $pointers, %eax
    movl %eax, %cr3
    movl %cr4, %eax
    orl $0x20, %eax
    movl %eax, %cr4
    movl %cr0, %eax
    orl $0x80000000, %eax
    movl %eax, %cr0

    # Is there memory behind the window?
    movl $0x5ab1e, high
    movl $0, has_high
    cmpl $0x5ab1e, high
    jne line
    movl $1, has_high
    movl $0, high

line:
    call check
    incl counter
    call turn
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

turn:                           # the ring's next step
    movl counter, %ebx
    call page
    movl %ebx, (%edi)
    movl %ebx, 4092(%edi)
    addl $32, %ebx
    call page
    xorl %eax, %eax
    movl $1024, %ecx
    rep stosl
    cmpl $0, has_high
    je 1f
    movl counter, %eax
    movl %eax, high
1:  ret

check:
    cmpl $0, has_high
    je 1f
    movl counter, %eax
    cmpl %eax, high
    jne bad
1:  movl counter, %ebp
    cmpl $64, %ebp
    jb 3f
    movl $31, %esi
2:  movl %ebp, %ebx             # the last counts are there
    subl %esi, %ebx
    call page
    cmpl %ebx, (%edi)
    jne bad
    cmpl %ebx, 4092(%edi)
    jne bad
    leal 1(%ebp,%esi), %ebx     # those before them are zeroed
    call page
    cmpl $0, (%edi)
    jne bad
    cmpl $0, 4092(%edi)
    jne bad
    decl %esi
    jnz 2b
3:  ret

bad:
    movb $'B', %al
    call put
    movb $'A', %al
    call put
    movb $'D', %al
    call put
    movb $'\n', %al
    call put
    hlt

page:                           # %edi = the page of count %ebx
    movl %ebx, %edi
    andl $63, %edi
    shll $12, %edi
    addl $ring, %edi
    ret

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
    .align 4096
directory_low:
    .skip 4096
directory_high:
    .skip 4096
    .align 32
pointers:
    .skip 32
nonce:
    .long 0
counter:
    .long 0
has_high:
    .long 0
    .skip 4096
stack_top:
