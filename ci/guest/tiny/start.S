// Where the tiny guest begins, by PVH (Xen's docs/misc/pvh.pandoc): a 32-bit segment of 4 GiB, no
// paging, %ebx = hvm_start_info. It goes to long mode with the first 4 GiB mapped to themselves.

        .section .note.pvh, "a", @note
        .balign 4
        .long 4, 8, 18                  // sizes of name and value; XEN_ELFNOTE_PHYS32_ENTRY
        .asciz "Xen"
        .quad Start32

        .section .text.start, "ax"
        .code32
        .globl  Start32
Start32:
        cli
        cld
        mov     $kPml4, %eax
        mov     %eax, %cr3
        mov     $0x20, %eax             // PAE
        mov     %eax, %cr4
        mov     $0xc0000080, %ecx       // EFER.LME
        rdmsr
        or      $0x100, %eax
        wrmsr
        mov     $0x80000011, %eax       // PG, ET, PE
        mov     %eax, %cr0
        lgdt    gdt_pointer
        ljmp    $8, $Start64

        .code64
Start64:
        mov     $16, %eax
        mov     %eax, %ds
        mov     %eax, %es
        mov     %eax, %ss
        mov     $stack_top, %esp
        mov     %ebx, %edi
        call    GuestMain
1:      hlt
        jmp     1b

// 256 entries of 16 bytes. Each leaves vector and error code on the stack, the CPU's or a zero.
        .balign 16
        .globl  kInterruptEntries
kInterruptEntries:
        .set    vector, 0
        .rept   256
        .balign 16
        .if     !(vector == 8 || (vector >= 10 && vector <= 14) || vector == 17 || vector == 21 || vector == 29 || vector == 30)
        push    $0
        .endif
        push    $vector
        jmp     Interrupt
        .set    vector, vector + 1
        .endr

Interrupt:
        push    %rax
        push    %rcx
        push    %rdx
        push    %rsi
        push    %rdi
        push    %r8
        push    %r9
        push    %r10
        push    %r11
        cld
        lea     72(%rsp), %rdi          // struct InterruptFrame
        call    OnInterrupt
        pop     %r11
        pop     %r10
        pop     %r9
        pop     %r8
        pop     %rdi
        pop     %rsi
        pop     %rdx
        pop     %rcx
        pop     %rax
        add     $16, %rsp
        iretq

        .data
        .balign 8
gdt:    .quad   0, 0x00af9b000000ffff, 0x00cf93000000ffff   // 8: code of 64 bits; 16: data
gdt_pointer:
        .word   gdt_pointer - gdt - 1
        .quad   gdt

        .balign 4096
        .globl  kPml4
kPml4:  .quad   kPdpt + 3
        .fill   511, 8, 0
kPdpt:  .quad   kPd + 3, kPd + 0x1003, kPd + 0x2003, kPd + 0x3003
        .fill   508, 8, 0
kPd:    .set    page, 0                 // pages of 2 MiB; from 2 GiB on uncached
        .rept   2048
        .quad   page * 0x200000 + 0x83 + (page >= 1024) * -0x18
        .set    page, page + 1
        .endr

        .bss
        .balign 16
        .skip   65536
stack_top:

        .section .note.GNU-stack, "", @progbits
