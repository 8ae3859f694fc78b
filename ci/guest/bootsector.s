# A boot sector: says "FARSIDE: booted from disk" on COM1, then resets the machine, which ends a
# QEMU that runs with -no-reboot. The code fits in the first 440 bytes of an MBR, so it can be
# written over a partitioned disk's boot code without touching its partition table.
    .code16
    .intel_syntax noprefix
    .globl _start

    .set COM1, 0x3f8
    .set LINE_STATUS, COM1 + 5
    .set TRANSMITTER_EMPTY, 0x40  # the shift register too: the last character is out
    .set TRANSMIT_READY, 0x20
    .set KEYBOARD_CONTROLLER, 0x64
    .set PULSE_RESET, 0xfe

_start:                           # the BIOS enters at 0000:7c00 or 07c0:0000, DL = the disk
    cli
    cld
    ljmp 0, offset start
start:
    xor ax, ax
    mov ds, ax
    mov si, offset text
next:
    lodsb
    test al, al
    jz finish
    mov bl, al
ready:
    mov dx, LINE_STATUS
    in al, dx
    test al, TRANSMIT_READY
    jz ready
    mov dx, COM1
    mov al, bl
    out dx, al
    jmp next

finish:
    mov dx, LINE_STATUS
sent:
    in al, dx
    test al, TRANSMITTER_EMPTY
    jz sent
    mov al, PULSE_RESET
    out KEYBOARD_CONTROLLER, al
halt:
    hlt
    jmp halt

text:
    .asciz "FARSIDE: booted from disk\r\n"
    .org _start + 510             # behind the partition table
    .word 0xaa55
