// What the guest is told of the machine in machine/layout.h: the PCI host bridge with its windows
// and interrupt wiring, and the few ISA devices.
DefinitionBlock ("dsdt.aml", "DSDT", 2, "FARSID", "VMMLITE", 1)
{
    // Power off: SLP_TYPa.
    Name (\_S5, Package () { 5, 5, 0, 0 })

    Scope (\_SB)
    {
        // Addresses that belong to nobody's window.
        Device (MBRD)
        {
            Name (_HID, EisaId ("PNP0C02"))
            Name (_UID, 0)
            Name (_CRS, ResourceTemplate ()
            {
                Memory32Fixed (ReadWrite, 0xB0000000, 0x10000000)  // ECAM
                IO (Decode16, 0x0600, 0x0600, 0, 0x0C)             // PM1a, PM timer
                IO (Decode16, 0x04D0, 0x04D0, 0, 0x02)             // ELCR
            })
        }

        Device (PCI0)
        {
            Name (_HID, EisaId ("PNP0A08"))
            Name (_CID, EisaId ("PNP0A03"))
            Name (_UID, 0)
            Name (_BBN, 0)
            Name (_CRS, ResourceTemplate ()
            {
                WordBusNumber (ResourceProducer, MinFixed, MaxFixed, PosDecode,
                    0, 0x0000, 0x00FF, 0, 0x0100)
                IO (Decode16, 0x0CF8, 0x0CF8, 0x01, 0x08)
                WordIO (ResourceProducer, MinFixed, MaxFixed, PosDecode, EntireRange,
                    0, 0x0000, 0x0CF7, 0, 0x0CF8)
                WordIO (ResourceProducer, MinFixed, MaxFixed, PosDecode, EntireRange,
                    0, 0x1000, 0xFFFF, 0, 0xF000)
                DWordMemory (ResourceProducer, PosDecode, MinFixed, MaxFixed, NonCacheable,
                    ReadWrite, 0, 0xC0000000, 0xFEBFFFFF, 0, 0x3EC00000)
                QWordMemory (ResourceProducer, PosDecode, MinFixed, MaxFixed, Cacheable,
                    ReadWrite, 0, 0x4000000000, 0x7FFFFFFFFF, 0, 0x4000000000)
            })

            // PCI Firmware Specification 3.2, section 4.5.1. The guest gets what it asks for of
            // native hot-plug, PME, AER and the PCIe capability; the standard hot-plug controller
            // (SHPC) and the rest it does not.
            Method (_OSC, 4, NotSerialized)
            {
                CreateDWordField (Arg3, 0, STS)
                If (Arg0 != ToUUID ("33DB4D5B-1FF7-401C-9657-7441C03DD766"))
                {
                    STS |= 0x04  // Not this UUID.
                    Return (Arg3)
                }
                If (Arg2 < 3)
                {
                    STS |= 0x02  // The buffer ends before the control field.
                    Return (Arg3)
                }
                CreateDWordField (Arg3, 8, CTRL)
                If (Arg1 != 1)
                {
                    STS |= 0x08  // Not this revision.
                }
                If (CTRL & 0xFFFFFFE2)
                {
                    STS |= 0x10  // Some control bits are taken back.
                    CTRL &= 0x1D
                }
                Return (Arg3)
            }

            // PirqOf() of machine/layout.h for every slot and pin. The links answer for the IOAPIC
            // too: its inputs have the ISA IRQs' numbers.
            Method (_PRT, 0, Serialized)
            {
                Local0 = Package (128) {}
                Local1 = 0
                While (Local1 < 128)
                {
                    Local2 = Local1 >> 2
                    Switch (ToInteger ((Local2 + Local1 + 3) & 3))
                    {
                        Case (0) { Local3 = Package () { 0, 0, LNKA, 0 } }
                        Case (1) { Local3 = Package () { 0, 0, LNKB, 0 } }
                        Case (2) { Local3 = Package () { 0, 0, LNKC, 0 } }
                        Default  { Local3 = Package () { 0, 0, LNKD, 0 } }
                    }
                    Local3 [0] = (Local2 << 16) | 0xFFFF
                    Local3 [1] = Local1 & 3
                    Local0 [Local1] = Local3
                    Local1++
                }
                Return (Local0)
            }

            Device (ISA)
            {
                Name (_ADR, 0x00010000)
                OperationRegion (PIRR, PCI_Config, 0x60, 0x04)
                Field (PIRR, ByteAcc, NoLock, Preserve)
                {
                    PRQA, 8,
                    PRQB, 8,
                    PRQC, 8,
                    PRQD, 8
                }

                Device (COM1)
                {
                    Name (_HID, EisaId ("PNP0501"))
                    Name (_UID, 1)
                    Name (_CRS, ResourceTemplate ()
                    {
                        IO (Decode16, 0x03F8, 0x03F8, 0, 0x08)
                        IRQNoFlags () { 4 }
                    })
                }

                Device (RTC)
                {
                    Name (_HID, EisaId ("PNP0B00"))
                    Name (_CRS, ResourceTemplate ()
                    {
                        IO (Decode16, 0x0070, 0x0070, 0, 0x02)
                        IRQNoFlags () { 8 }
                    })
                }

                Device (PIC)
                {
                    Name (_HID, EisaId ("PNP0000"))
                    Name (_CRS, ResourceTemplate ()
                    {
                        IO (Decode16, 0x0020, 0x0020, 0, 0x02)
                        IO (Decode16, 0x00A0, 0x00A0, 0, 0x02)
                        IRQNoFlags () { 2 }
                    })
                }

                Device (PIT)
                {
                    Name (_HID, EisaId ("PNP0100"))
                    Name (_CRS, ResourceTemplate ()
                    {
                        IO (Decode16, 0x0040, 0x0040, 0, 0x04)
                        IO (Decode16, 0x0061, 0x0061, 0, 0x01)
                        IRQNoFlags () { 0 }
                    })
                }
            }
        }

        // The links: what a route register says, and how to change it.
        Name (LPRS, ResourceTemplate ()
        {
            Interrupt (ResourceConsumer, Level, ActiveHigh, Shared) { 5, 10, 11 }
        })

        Method (LSTA, 1, NotSerialized)  // A link's _STA by its register.
        {
            If (Arg0 & 0x80)
            {
                Return (0x09)
            }
            Return (0x0B)
        }

        Method (LCRS, 1, Serialized)  // Its _CRS.
        {
            Name (BUF0, ResourceTemplate ()
            {
                Interrupt (ResourceConsumer, Level, ActiveHigh, Shared, , , IRQ0) { 0 }
            })
            CreateDWordField (BUF0, IRQ0._INT, IRQN)
            If (!(Arg0 & 0x80))
            {
                IRQN = Arg0 & 0x0F
            }
            Return (BUF0)
        }

        Method (LIRQ, 1, NotSerialized)  // The IRQ that _SRS is given.
        {
            CreateDWordField (Arg0, 5, IRQN)
            Return (IRQN)
        }

        Device (LNKA)
        {
            Name (_HID, EisaId ("PNP0C0F"))
            Name (_UID, 0)
            Method (_STA) { Return (LSTA (\_SB.PCI0.ISA.PRQA)) }
            Method (_PRS) { Return (LPRS) }
            Method (_CRS) { Return (LCRS (\_SB.PCI0.ISA.PRQA)) }
            Method (_DIS) { \_SB.PCI0.ISA.PRQA |= 0x80 }
            Method (_SRS, 1) { \_SB.PCI0.ISA.PRQA = LIRQ (Arg0) }
        }

        Device (LNKB)
        {
            Name (_HID, EisaId ("PNP0C0F"))
            Name (_UID, 1)
            Method (_STA) { Return (LSTA (\_SB.PCI0.ISA.PRQB)) }
            Method (_PRS) { Return (LPRS) }
            Method (_CRS) { Return (LCRS (\_SB.PCI0.ISA.PRQB)) }
            Method (_DIS) { \_SB.PCI0.ISA.PRQB |= 0x80 }
            Method (_SRS, 1) { \_SB.PCI0.ISA.PRQB = LIRQ (Arg0) }
        }

        Device (LNKC)
        {
            Name (_HID, EisaId ("PNP0C0F"))
            Name (_UID, 2)
            Method (_STA) { Return (LSTA (\_SB.PCI0.ISA.PRQC)) }
            Method (_PRS) { Return (LPRS) }
            Method (_CRS) { Return (LCRS (\_SB.PCI0.ISA.PRQC)) }
            Method (_DIS) { \_SB.PCI0.ISA.PRQC |= 0x80 }
            Method (_SRS, 1) { \_SB.PCI0.ISA.PRQC = LIRQ (Arg0) }
        }

        Device (LNKD)
        {
            Name (_HID, EisaId ("PNP0C0F"))
            Name (_UID, 3)
            Method (_STA) { Return (LSTA (\_SB.PCI0.ISA.PRQD)) }
            Method (_PRS) { Return (LPRS) }
            Method (_CRS) { Return (LCRS (\_SB.PCI0.ISA.PRQD)) }
            Method (_DIS) { \_SB.PCI0.ISA.PRQD |= 0x80 }
            Method (_SRS, 1) { \_SB.PCI0.ISA.PRQD = LIRQ (Arg0) }
        }
    }
}
