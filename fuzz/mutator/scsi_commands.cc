#include "fuzz/mutator/scsi_commands.h"

#include <algorithm>

#include "fuzz/host/disk.h"

namespace farside::fuzz {
namespace {

// Within a list's block descriptor, or behind the code and the length of its first page.
size_t Boundary(Making& making, std::span<const std::byte> list, bool ten) {
  const size_t header = ten ? 8 : 4;
  const auto descriptors = std::to_integer<size_t>(list[header - 1]);
  return header + (making.OneIn(2) ? descriptors + 2 : making.Below(descriptors + 1));
}

// A header, a block descriptor, pages; cut now and then.
std::vector<std::byte> ModeList(Making& making, bool ten) {
  std::vector<std::byte> list(ten ? 8 : 4);
  const auto add = [&](std::initializer_list<uint8_t> bytes) {
    for (const uint8_t byte : bytes) list.push_back(std::byte{byte});
  };
  if (making.OneIn(2)) {
    list[ten ? 7 : 3] = std::byte{8};
    add({0, 0, 0, 0, 0, 0, making.Pick<uint8_t>({2, 2, 4, 8}), 0});  // Bytes of a block.
  }
  if (making.OneIn(2)) {
    const auto wce = static_cast<uint8_t>(making.Below(2) << 2);
    add({0x08, 18, wce, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0});  // Caching.
  }
  if (making.OneIn(2)) {
    const auto descriptors = static_cast<uint8_t>(making.Below(2) << 2);  // D_SENSE.
    add({0x0a, 10, descriptors, 0x10, 0, 0, 0, 0, 0, 0, 0, 0});
  }
  if (making.OneIn(4)) {
    list.resize(std::min(list.size(), Boundary(making, list, ten)));
  } else if (making.OneIn(6)) {
    list.resize(1 + making.Below(list.size()));
  }
  return list;
}

// Descriptors of a few blocks, and lengths that may promise more than there is.
std::vector<std::byte> UnmapList(Making& making, size_t size) {
  std::vector<std::byte> list(size);
  list[3] = static_cast<std::byte>(making.OneIn(3) ? 0xf0 : size - 8);
  for (size_t at = 8; at + 16 <= size; at += 16) {
    list[at + 7] = static_cast<std::byte>(making.Below(128));
    list[at + 11] = static_cast<std::byte>(1 + making.Below(4));
  }
  return list;
}

// A command that means something only with a parameter list, or with a certain field.
void Shape(Making& making, ScsiCommand& command) {
  auto& cdb = command.cdb;
  const auto zero = [&] { std::fill(cdb.begin() + 1, cdb.end(), uint8_t{0}); };
  switch (scsi::Opcode{cdb[0]}) {
    case scsi::Opcode::kRequestSense:
      zero();
      cdb[1] = static_cast<uint8_t>(making.Below(2));
      cdb[4] = static_cast<uint8_t>(making.Pick({18u, 20u, 96u, 252u, 255u}));
      return;
    case scsi::Opcode::kInquiry:
      zero();
      cdb[1] = static_cast<uint8_t>(making.Below(2));
      cdb[2] = cdb[1] == 0 ? uint8_t{0} : making.Pick<uint8_t>({0x00, 0x80, 0x83, 0xb0, 0xb2});
      cdb[4] = static_cast<uint8_t>(making.Pick({36u, 96u, 255u}));
      return;
    case scsi::Opcode::kModeSense6:
    case scsi::Opcode::kModeSense10:
      // All pages, some; current, changeable and default values.
      zero();
      cdb[2] = static_cast<uint8_t>(making.Pick({0x3fu, 0x3fu, 0x01u, 0x08u, 0x0au, 0x2au}) |
                                    making.Below(4) << 6);
      cdb[scsi::Opcode{cdb[0]} == scsi::Opcode::kModeSense10 ? 8 : 4] =
          static_cast<uint8_t>(making.Pick({4u, 24u, 252u, 255u}));
      return;
    case scsi::Opcode::kReportLuns:
      zero();
      cdb[9] = static_cast<uint8_t>(making.Pick({8u, 16u, 24u, 255u}));
      return;
    case scsi::Opcode::kStartStopUnit:
      zero();
      cdb[4] = static_cast<uint8_t>(making.Below(4));  // START, LOEJ.
      return;
    case scsi::Opcode::kReadCapacity10:
      return zero();
    case scsi::Opcode::kServiceActionIn16:
      zero();
      cdb[1] = 0x10;  // READ CAPACITY(16).
      cdb[13] = 32;
      return;
    case scsi::Opcode::kUnmap:
      zero();
      cdb[8] = static_cast<uint8_t>(making.Pick({8u, 24u, 40u}));
      command.list = UnmapList(making, cdb[8]);
      break;
    case scsi::Opcode::kModeSelect6:
    case scsi::Opcode::kModeSelect10: {
      const bool ten = scsi::Opcode{cdb[0]} == scsi::Opcode::kModeSelect10;
      command.list = ModeList(making, ten);
      zero();
      cdb[1] = 0x10;  // PF.
      cdb[ten ? 8 : 4] = static_cast<uint8_t>(command.list.size());
      break;
    }
    default:
      return;
  }
  command.out = true;
  command.data = static_cast<uint32_t>(command.list.size());
}

// Where a read or write has its blocks, by the size of its CDB.
void PutRange(ScsiCommand& command, uint64_t first, uint64_t count) {
  const size_t address = command.size == 6 ? 3 : command.size == 16 ? 9 : 5;
  const size_t blocks = command.size == 6    ? 4
                        : command.size == 16 ? 13
                        : command.size == 12 ? 9
                                             : 8;
  command.cdb[address] = static_cast<uint8_t>(first);
  command.cdb[blocks] = static_cast<uint8_t>(count);
}

constexpr uint64_t kMostBlocks = 8;  // Of one transfer.

}  // namespace

ScsiCommand MakeTransfer(Making& making, uint8_t opcode, uint32_t block_size) {
  const uint64_t blocks = Disk::kSize / block_size;
  ScsiCommand command;
  command.cdb[0] = opcode;
  command.size = static_cast<uint32_t>(scsi::CdbSize(opcode));
  const uint64_t count = 1 + making.Below(std::min(kMostBlocks, blocks));
  PutRange(command, making.Below(blocks - count + 1), count);
  command.data = static_cast<uint32_t>(count * block_size);
  command.out = (opcode & 0x1f) != 0x08;
  return command;
}

ScsiCommand MakeScsiCommand(Making& making, scsi::Opcode opcode) {
  ScsiCommand command;
  command.cdb[0] = static_cast<uint8_t>(opcode);
  command.size = static_cast<uint32_t>(scsi::CdbSize(command.cdb[0]));
  Shape(making, command);
  return command;
}

ScsiCommand MakeScsiCommand(Making& making) {
  constexpr uint8_t kOpcodes[] = {0x00, 0x03, 0x04, 0x08, 0x0a, 0x12, 0x12, 0x15, 0x16, 0x17,
                                  0x1a, 0x1b, 0x1d, 0x1e, 0x23, 0x25, 0x28, 0x28, 0x2a, 0x2a,
                                  0x2b, 0x2e, 0x2f, 0x34, 0x35, 0x3b, 0x3c, 0x41, 0x42, 0x43,
                                  0x44, 0x46, 0x4a, 0x51, 0x55, 0x5a, 0x5e, 0x88, 0x8a, 0x8f,
                                  0x91, 0x93, 0x9e, 0xa0, 0xa3, 0xa8, 0xaa, 0xad, 0xbe};
  ScsiCommand command;
  // Those that say most about themselves.
  constexpr uint8_t kShaped[] = {0x03, 0x12, 0x15, 0x1a, 0x1b, 0x25, 0x42, 0x55, 0x5a, 0x9e, 0xa0};
  constexpr uint8_t kReadsAndWrites[] = {0x08, 0x0a, 0x28, 0x2a, 0x88, 0x8a, 0xa8, 0xaa, 0x2e};
  command.cdb[0] = making.OneIn(2) ? kOpcodes[making.Below(std::size(kOpcodes))]
                                   : kReadsAndWrites[making.Below(std::size(kReadsAndWrites))];
  if (making.OneIn(4)) command.cdb[0] = kShaped[making.Below(std::size(kShaped))];
  if (making.OneIn(16)) command.cdb[0] = static_cast<uint8_t>(making.Below(256));
  constexpr uint32_t kSizes[] = {6, 10, 10, 10, 16, 12, 12, 6};
  command.size = kSizes[command.cdb[0] >> 5];
  for (uint32_t i = 1; i < 16; ++i) {
    command.cdb[i] =
        static_cast<uint8_t>(making.OneIn(3) ? making.random.Next() >> making.Below(64) : 0);
  }
  command.cdb[1] &= 0x1f;
  const bool reads = (command.cdb[0] & 0x1f) == 0x08;
  const bool writes = (command.cdb[0] & 0x1f) == 0x0a || command.cdb[0] == 0x2e;
  if ((reads || writes) && !making.OneIn(4)) {
    // Lawful blocks, mostly.
    std::fill(command.cdb.begin() + 1, command.cdb.end(), uint8_t{0});
    const uint64_t count = 1 + making.Below(kMostBlocks);
    PutRange(command, making.Below(Disk::kSize / 512), count);
    command.data = static_cast<uint32_t>(count * 512);
  } else {
    command.data = making.Pick({0u, 4u, 8u, 18u, 24u, 36u, 96u, 255u, 512u, 4096u});
  }
  const bool selects = command.cdb[0] == 0x15 || command.cdb[0] == 0x55 || command.cdb[0] == 0x1d ||
                       command.cdb[0] == 0x3b;
  command.out = writes || selects || making.OneIn(16);
  if (!making.OneIn(4)) Shape(making, command);
  if (making.OneIn(12)) command.size = static_cast<uint32_t>(1 + making.Below(16));
  return command;
}

std::vector<std::byte> MakeScsiMessages(Making& making) {
  std::vector<std::byte> message;
  const auto add = [&](int byte) { message.push_back(static_cast<std::byte>(byte)); };
  add(making.Pick({0x80, 0x80, 0xc0, 0xc0, 0x81}));
  if (making.OneIn(2)) {
    add(making.Pick({0x20, 0x20, 0x21, 0x22}));
    add(static_cast<int>(making.Below(8)));
  }
  if (making.OneIn(12)) {
    add(making.Pick({0x06, 0x0c, 0x0d, 0x0e, 0x17}));
  } else if (making.OneIn(16)) {  // An extended message, of a length that may be none.
    const int size = making.Pick({2, 3, 6, 15, 20, 40, 56});
    add(0x01);
    add(size);
    add(making.Pick({0x01, 0x03, 0x04, 0x08}));
    for (int i = 1; i < size; ++i) add(making.Pick({0x08, 0x08, 0x08, 0x0a, 0x80}));
  } else if (making.OneIn(6)) {
    for (uint64_t i = 1 + making.Below(3); i != 0; --i) {
      add(making.Pick({0x06, 0x0c, 0x0d, 0x0e, 0x08, 0x01, 0x05, 0x23}));
    }
  } else if (making.OneIn(60)) {  // As many as there may be replies, and more.
    for (uint64_t i = 20 + making.Below(40); i != 0; --i) add(0x23);
  }
  return message;
}

std::vector<std::byte> MakeManyMessages(Making& making) {
  constexpr size_t kMany = 200;
  std::vector<std::byte> messages = {std::byte{0x80}};
  const auto any = [&] { return static_cast<uint8_t>(making.random.Next()); };
  const auto add = [&](std::initializer_list<uint8_t> bytes) {
    for (const uint8_t byte : bytes) messages.push_back(std::byte{byte});
  };
  const uint64_t kind = making.Below(5);
  for (const size_t size = 2 + making.Below(kMany); messages.size() < size;) {
    switch (kind == 4 ? making.Below(4) : kind) {
      case 0:
        add({0x01, 3, 0x01, any(), any()});  // SDTR: period, offset.
        break;
      case 1:
        add({0x01, 2, 0x03, any()});  // WDTR: exponent of the width.
        break;
      case 2:
        add({0x01, 6, 0x04, any(), 0, any(), any(), 0});  // PPR: all of these.
        break;
      default:
        add({0x0a});  // There is none of this code: it is rejected.
    }
  }
  return messages;
}

}  // namespace farside::fuzz
