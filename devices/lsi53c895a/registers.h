// Operating registers of the LSI53C895A: BAR 0 (I/O) and BAR 1 (memory, repeated every 256 bytes).
// Definitions only: for the model, drivers, traces and fuzz dictionaries. LSI53C895A Technical
// Manual, chapter 4; names are its own.
#pragma once

#include <cstdint>
#include <iterator>

#include "devices/core/register_block.h"

namespace farside::lsi53c895a {

inline constexpr uint16_t kVendorId = 0x1000;  // LSI Logic.
inline constexpr uint16_t kDeviceId = 0x0012;
inline constexpr uint32_t kClassCode = 0x010000;  // Mass storage, SCSI.

inline constexpr uint32_t kIoBar = 0;
inline constexpr uint32_t kMemoryBar = 1;
inline constexpr uint32_t kRamBar = 2;
inline constexpr uint64_t kRegisterSize = 256;
inline constexpr uint64_t kMemoryBarSize = 1 << 10;
inline constexpr uint64_t kRamSize = 8 << 10;  // SCRIPTS RAM.

inline constexpr uint8_t kScntl0Trg = 1 << 0;  // Target mode.
inline constexpr uint8_t kScntl1Rst = 1 << 3;  // Asserts the SCSI RST/ signal.
inline constexpr uint8_t kScntl1Con = 1 << 4;  // Connected.
inline constexpr uint8_t kScntl1Iarb = 1 << 1;
inline constexpr uint8_t kScntl2Sdu = 1 << 7;  // A disconnect would be unexpected.
inline constexpr uint8_t kScntl2Wsr = 1 << 0;

// Bits of SOCL and SBCL.
inline constexpr uint8_t kBusReq = 1 << 7;
inline constexpr uint8_t kBusAck = 1 << 6;
inline constexpr uint8_t kBusBsy = 1 << 5;
inline constexpr uint8_t kBusAtn = 1 << 3;
inline constexpr uint8_t kBusPhase = 7;  // MSG, C/D, I/O.

inline constexpr uint8_t kSsidVal = 1 << 7;

inline constexpr uint8_t kDstatDfe = 1 << 7;  // DMA FIFO empty: no interrupt.
inline constexpr uint8_t kDstatMdpe = 1 << 6;
inline constexpr uint8_t kDstatBf = 1 << 5;
inline constexpr uint8_t kDstatAbrt = 1 << 4;
inline constexpr uint8_t kDstatSsi = 1 << 3;
inline constexpr uint8_t kDstatSir = 1 << 2;
inline constexpr uint8_t kDstatIid = 1 << 0;

inline constexpr uint8_t kSstat0Woa = 1 << 2;
inline constexpr uint8_t kSstat0Rst = 1 << 1;
inline constexpr uint8_t kSstat2Ldsc = 1 << 1;

inline constexpr uint8_t kIstat0Abrt = 1 << 7;
inline constexpr uint8_t kIstat0Srst = 1 << 6;
inline constexpr uint8_t kIstat0Sigp = 1 << 5;
inline constexpr uint8_t kIstat0Sem = 1 << 4;
inline constexpr uint8_t kIstat0Con = 1 << 3;
inline constexpr uint8_t kIstat0Intf = 1 << 2;
inline constexpr uint8_t kIstat0Sip = 1 << 1;
inline constexpr uint8_t kIstat0Dip = 1 << 0;
inline constexpr uint8_t kIstat1Srun = 1 << 1;  // SCRIPTS are running.
inline constexpr uint8_t kIstat1Si = 1 << 0;    // SYNC_IRQD: no further interrupt.

inline constexpr uint8_t kCtest2Sigp = 1 << 6;
inline constexpr uint8_t kCtest2Cio = 1 << 5;
inline constexpr uint8_t kCtest2Cm = 1 << 4;
inline constexpr uint8_t kCtest2Pcicie = 1 << 3;  // SCRATCHA and SCRATCHB show BARs 1 and 2.
inline constexpr uint8_t kCtest2Dack = 1 << 0;
inline constexpr uint8_t kCtest3Flf = 1 << 3;
inline constexpr uint8_t kCtest3Clf = 1 << 2;

inline constexpr uint8_t kDmodeSiom = 1 << 5;  // Memory moves read I/O space.
inline constexpr uint8_t kDmodeDiom = 1 << 4;  // And write it.
inline constexpr uint8_t kDmodeMan = 1 << 0;   // Writing DSP starts nothing.
inline constexpr uint8_t kDcntlPff = 1 << 6;
inline constexpr uint8_t kDcntlSsm = 1 << 4;  // Single-step mode.
inline constexpr uint8_t kDcntlStd = 1 << 2;  // Start.
inline constexpr uint8_t kDcntlIrqd = 1 << 1;

inline constexpr uint8_t kSist0Ma = 1 << 7;
inline constexpr uint8_t kSist0Cmp = 1 << 6;
inline constexpr uint8_t kSist0Sel = 1 << 5;
inline constexpr uint8_t kSist0Rsl = 1 << 4;
inline constexpr uint8_t kSist0Sge = 1 << 3;
inline constexpr uint8_t kSist0Udc = 1 << 2;
inline constexpr uint8_t kSist0Rst = 1 << 1;
inline constexpr uint8_t kSist0Par = 1 << 0;
inline constexpr uint8_t kSist1Sbmc = 1 << 4;
inline constexpr uint8_t kSist1Sto = 1 << 2;
inline constexpr uint8_t kSist1Gen = 1 << 1;
inline constexpr uint8_t kSist1Hth = 1 << 0;

inline constexpr uint8_t kStime1Gensf = 1 << 5;  // Times 16.
inline constexpr uint8_t kStime1Hthsf = 1 << 4;
inline constexpr uint8_t kStest2Rof = 1 << 6;
inline constexpr uint8_t kStest3Csf = 1 << 1;

inline constexpr uint8_t kCcntl0Enpmj = 1 << 7;   // Phase mismatches jump.
inline constexpr uint8_t kCcntl0Pmjctl = 1 << 6;  // By direction, not by WSR.
inline constexpr uint8_t kCcntl0Enndj = 1 << 5;   // Those of other than data phases, too.
inline constexpr uint8_t kCcntl1Ddac = 1 << 3;    // No address has more than 32 bits.
inline constexpr uint8_t kCcntl1Timod = 1 << 2;   // Table entries hold bits 39:32, not an index.
inline constexpr uint8_t kCcntl1EnTibmv = 1 << 1;
inline constexpr uint8_t kCcntl1EnDbmv = 1 << 0;

// Rows of kRegisters, in order.
enum Reg : size_t {
  kScntl0,
  kScntl1,
  kScntl2,
  kScntl3,
  kScid,
  kSxfer,
  kSdid,
  kGpreg,
  kSfbr,
  kSocl,
  kSsid,
  kSbcl,
  kDstat,
  kSstat0,
  kSstat1,
  kSstat2,
  kDsa,
  kIstat0,
  kIstat1,
  kMbox0,
  kMbox1,
  kCtest0,
  kCtest1,
  kCtest2,
  kCtest3,
  kTemp,
  kDfifo,
  kCtest4,
  kCtest5,
  kCtest6,
  kDbc,
  kDnad,
  kDsp,
  kDsps,
  kScratchA,
  kDmode,
  kDien,
  kSbr,
  kDcntl,
  kAdder,
  kSien0,
  kSien1,
  kSist0,
  kSist1,
  kSlpar,
  kSwide,
  kMacntl,
  kGpcntl,
  kStime0,
  kStime1,
  kRespid0,
  kRespid1,
  kStest0,
  kStest1,
  kStest2,
  kStest3,
  kSidl,
  kStest4,
  kSodl,
  kCcntl0,
  kCcntl1,
  kSbdl,
  kScratchB,
  kScratchC,  // And SCRATCHD to SCRATCHR: 16 rows.
  kMmrs = kScratchC + 16,
  kMmws,
  kSfs,
  kDrs,
  kSbms,
  kDbms,
  kDnad64,
  kPmjad1,
  kPmjad2,
  kRbc,
  kUa,
  kEsa,
  kIa,
  kSbc,
  kCsbc,
  kRegCount,
};

inline constexpr uint64_t kAllBits = 0xffff'ffff;

// Reading has effects where the comment says so. Bits that clear themselves are writable here; the
// chip clears them. DBC is 24 bits with DCMD above them, and so is SBC with nothing above.
inline constexpr RegisterDef kRegisters[] = {
    {.offset = 0x00, .width = 1, .name = "SCNTL0", .reset = 0xc0, .writable = 0xfb},
    {.offset = 0x01, .width = 1, .name = "SCNTL1", .writable = 0xef},
    {.offset = 0x02, .width = 1, .name = "SCNTL2", .writable = 0xf6, .clear = 0x09},
    {.offset = 0x03, .width = 1, .name = "SCNTL3", .writable = 0xff},
    {.offset = 0x04, .width = 1, .name = "SCID", .writable = 0x6f},
    {.offset = 0x05, .width = 1, .name = "SXFER", .writable = 0xff},
    {.offset = 0x06, .width = 1, .name = "SDID", .writable = 0x0f},
    {.offset = 0x07, .width = 1, .name = "GPREG", .reset = 0x7f, .writable = 0x1f},
    {.offset = 0x08, .width = 1, .name = "SFBR"},  // SCRIPTS write it.
    {.offset = 0x09, .width = 1, .name = "SOCL", .writable = 0xff},
    {.offset = 0x0a, .width = 1, .name = "SSID"},
    {.offset = 0x0b, .width = 1, .name = "SBCL"},
    {.offset = 0x0c, .width = 1, .name = "DSTAT", .reset = kDstatDfe},  // Read clears, but DFE.
    {.offset = 0x0d, .width = 1, .name = "SSTAT0"},
    {.offset = 0x0e, .width = 1, .name = "SSTAT1"},
    {.offset = 0x0f, .width = 1, .name = "SSTAT2", .reset = kSstat2Ldsc},
    {.offset = 0x10, .width = 4, .name = "DSA", .writable = kAllBits},
    {.offset = 0x14, .width = 1, .name = "ISTAT0", .writable = 0xf0, .clear = kIstat0Intf},
    {.offset = 0x15, .width = 1, .name = "ISTAT1", .writable = kIstat1Si},
    {.offset = 0x16, .width = 1, .name = "MBOX0", .writable = 0xff},
    {.offset = 0x17, .width = 1, .name = "MBOX1", .writable = 0xff},
    {.offset = 0x18, .width = 1, .name = "CTEST0", .reset = 0xff},
    {.offset = 0x19, .width = 1, .name = "CTEST1"},
    // Read clears ISTAT0.SIGP.
    {.offset = 0x1a, .width = 1, .name = "CTEST2", .reset = kCtest2Dack, .writable = 0x08},
    {.offset = 0x1b, .width = 1, .name = "CTEST3", .writable = 0x0f},
    {.offset = 0x1c, .width = 4, .name = "TEMP", .writable = kAllBits},
    {.offset = 0x20, .width = 1, .name = "DFIFO"},
    {.offset = 0x21, .width = 1, .name = "CTEST4", .writable = 0xff},
    {.offset = 0x22, .width = 1, .name = "CTEST5", .writable = 0x3c},
    {.offset = 0x23, .width = 1, .name = "CTEST6", .writable = 0xff},
    {.offset = 0x24, .width = 4, .name = "DBC", .reset = 0x4000'0000, .writable = kAllBits},
    {.offset = 0x28, .width = 4, .name = "DNAD", .writable = kAllBits},
    {.offset = 0x2c, .width = 4, .name = "DSP", .writable = kAllBits},
    {.offset = 0x30, .width = 4, .name = "DSPS", .writable = kAllBits},
    {.offset = 0x34, .width = 4, .name = "SCRATCHA", .writable = kAllBits},
    {.offset = 0x38, .width = 1, .name = "DMODE", .writable = 0xff},
    {.offset = 0x39, .width = 1, .name = "DIEN", .writable = 0x7d},
    {.offset = 0x3a, .width = 1, .name = "SBR", .writable = 0xff},
    {.offset = 0x3b, .width = 1, .name = "DCNTL", .writable = 0xff},
    {.offset = 0x3c, .width = 4, .name = "ADDER"},
    {.offset = 0x40, .width = 1, .name = "SIEN0", .writable = 0xff},
    {.offset = 0x41, .width = 1, .name = "SIEN1", .writable = 0x17},
    {.offset = 0x42, .width = 1, .name = "SIST0"},  // Read clears.
    {.offset = 0x43, .width = 1, .name = "SIST1"},  // Read clears.
    {.offset = 0x44, .width = 1, .name = "SLPAR", .writable = 0xff},
    {.offset = 0x45, .width = 1, .name = "SWIDE", .writable = 0xff},
    {.offset = 0x46, .width = 1, .name = "MACNTL", .writable = 0x0f},
    {.offset = 0x47, .width = 1, .name = "GPCNTL", .reset = 0x0f, .writable = 0xff},
    {.offset = 0x48, .width = 1, .name = "STIME0", .writable = 0xff},
    {.offset = 0x49, .width = 1, .name = "STIME1", .writable = 0x7f},
    {.offset = 0x4a, .width = 1, .name = "RESPID0", .writable = 0xff},
    {.offset = 0x4b, .width = 1, .name = "RESPID1", .writable = 0xff},
    {.offset = 0x4c, .width = 1, .name = "STEST0", .reset = 0x03},
    {.offset = 0x4d, .width = 1, .name = "STEST1", .writable = 0xcf},
    {.offset = 0x4e, .width = 1, .name = "STEST2", .writable = 0xff},
    {.offset = 0x4f, .width = 1, .name = "STEST3", .writable = 0xff},
    {.offset = 0x50, .width = 2, .name = "SIDL"},
    {.offset = 0x52, .width = 1, .name = "STEST4", .reset = 0xe0},  // LVD; the clock is locked.
    {.offset = 0x54, .width = 2, .name = "SODL", .writable = 0xffff},
    {.offset = 0x56, .width = 1, .name = "CCNTL0", .writable = 0xf3},
    {.offset = 0x57, .width = 1, .name = "CCNTL1", .writable = 0x9f},
    {.offset = 0x58, .width = 2, .name = "SBDL"},
    {.offset = 0x5c, .width = 4, .name = "SCRATCHB", .writable = kAllBits},
    {.offset = 0x60, .width = 4, .name = "SCRATCHC", .writable = kAllBits},
    {.offset = 0x64, .width = 4, .name = "SCRATCHD", .writable = kAllBits},
    {.offset = 0x68, .width = 4, .name = "SCRATCHE", .writable = kAllBits},
    {.offset = 0x6c, .width = 4, .name = "SCRATCHF", .writable = kAllBits},
    {.offset = 0x70, .width = 4, .name = "SCRATCHG", .writable = kAllBits},
    {.offset = 0x74, .width = 4, .name = "SCRATCHH", .writable = kAllBits},
    {.offset = 0x78, .width = 4, .name = "SCRATCHI", .writable = kAllBits},
    {.offset = 0x7c, .width = 4, .name = "SCRATCHJ", .writable = kAllBits},
    {.offset = 0x80, .width = 4, .name = "SCRATCHK", .writable = kAllBits},
    {.offset = 0x84, .width = 4, .name = "SCRATCHL", .writable = kAllBits},
    {.offset = 0x88, .width = 4, .name = "SCRATCHM", .writable = kAllBits},
    {.offset = 0x8c, .width = 4, .name = "SCRATCHN", .writable = kAllBits},
    {.offset = 0x90, .width = 4, .name = "SCRATCHO", .writable = kAllBits},
    {.offset = 0x94, .width = 4, .name = "SCRATCHP", .writable = kAllBits},
    {.offset = 0x98, .width = 4, .name = "SCRATCHQ", .writable = kAllBits},
    {.offset = 0x9c, .width = 4, .name = "SCRATCHR", .writable = kAllBits},
    {.offset = 0xa0, .width = 4, .name = "MMRS", .writable = kAllBits},
    {.offset = 0xa4, .width = 4, .name = "MMWS", .writable = kAllBits},
    {.offset = 0xa8, .width = 4, .name = "SFS", .writable = kAllBits},
    {.offset = 0xac, .width = 4, .name = "DRS", .writable = kAllBits},
    {.offset = 0xb0, .width = 4, .name = "SBMS", .writable = kAllBits},
    {.offset = 0xb4, .width = 4, .name = "DBMS", .writable = kAllBits},
    {.offset = 0xb8, .width = 4, .name = "DNAD64", .writable = kAllBits},
    {.offset = 0xc0, .width = 4, .name = "PMJAD1", .writable = kAllBits},
    {.offset = 0xc4, .width = 4, .name = "PMJAD2", .writable = kAllBits},
    {.offset = 0xc8, .width = 4, .name = "RBC", .writable = kAllBits},
    {.offset = 0xcc, .width = 4, .name = "UA", .writable = kAllBits},
    {.offset = 0xd0, .width = 4, .name = "ESA", .writable = kAllBits},
    {.offset = 0xd4, .width = 4, .name = "IA", .writable = kAllBits},
    {.offset = 0xd8, .width = 4, .name = "SBC"},
    {.offset = 0xdc, .width = 4, .name = "CSBC", .writable = kAllBits},
};
static_assert(IsWellFormed(kRegisters) && std::size(kRegisters) == kRegCount);
static_assert(kRegisters[kMmrs].offset == 0xa0 && kRegisters[kCsbc].offset == 0xdc);

constexpr uint32_t OffsetOf(Reg reg) { return kRegisters[reg].offset; }

}  // namespace farside::lsi53c895a
