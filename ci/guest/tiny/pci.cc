#include "ci/guest/tiny/pci.h"

namespace tiny {

namespace {

constexpr size_t kMaxFunctions = 32;
Function functions[kMaxFunctions];
size_t function_count = 0;
uint8_t last_bus = 0;
uint16_t next_port = 0xd000;

void ScanBus(uint8_t bus, const Function* bridge);

void ScanBridge(Function& bridge) {
  auto secondary = ReadConfig<uint8_t>(bridge, 0x19);
  if (secondary == 0) {  // no firmware was here
    secondary = ++last_bus;
    WriteConfig<uint8_t>(bridge, 0x18, bridge.bus);
    WriteConfig<uint8_t>(bridge, 0x19, secondary);
    WriteConfig<uint8_t>(bridge, 0x1a, 0xff);
    ScanBus(secondary, &bridge);
    WriteConfig<uint8_t>(bridge, 0x1a, last_bus);
  } else {
    if (secondary > last_bus) last_bus = secondary;
    ScanBus(secondary, &bridge);
  }
  SetCommand(bridge, kIoDecode | kMemoryDecode | kBusMaster, 0);
}

void ScanFunction(Function at) {
  at.device = ReadConfig<uint16_t>(at, 2);
  at.class_code = ReadConfig<uint32_t>(at, 8) >> 8;
  if (function_count == kMaxFunctions) return;
  Function& found = functions[function_count++] = at;
  const auto header = ReadConfig<uint8_t>(at, 0xe) & 0x7f;
  const uint8_t bar_end = header == 0 ? 0x28 : header == 1 ? 0x18 : 0x10;
  size_t count = 0;
  for (uint8_t reg = 0x10; reg < bar_end; reg += 4) {
    const Bar bar = found.bars[count] = SizeBar(found, reg);
    if (bar.size != 0) count++;
    if (bar.wide) reg += 4;
  }
  if (header == 1) ScanBridge(found);
}

void ScanBus(uint8_t bus, const Function* bridge) {
  for (uint8_t slot = 0; slot < 32; slot++) {
    for (uint8_t function = 0; function < 8; function++) {
      Function at = {};
      at.bus = bus, at.slot = slot, at.function = function, at.bridge = bridge;
      at.vendor = ReadConfig<uint16_t>(at, 0);
      if (at.vendor != 0xffff) ScanFunction(at);
      if (function == 0 && (at.vendor == 0xffff || (ReadConfig<uint8_t>(at, 0xe) & 0x80) == 0)) {
        break;
      }
    }
  }
}

bool IsTaken(uint64_t base, uint64_t size) {
  for (const Function& each : functions) {
    for (const Bar& bar : each.bars) {
      if (!bar.io && bar.base != 0 && base < bar.base + bar.size && bar.base < base + size) {
        return true;
      }
    }
  }
  return false;
}

// A bridge without a window gets one.
uint64_t WindowBase(const Function& bridge) {
  const auto window = ReadConfig<uint32_t>(bridge, 0x20);
  const uint64_t base = uint64_t{window & 0xfff0} << 16;
  if (base != 0 && base <= (window & 0xfff0'0000)) return base;
  const uint64_t own = 0xd800'0000 + 0x100'0000ull * bridge.slot;
  WriteConfig<uint32_t>(bridge, 0x20, static_cast<uint32_t>(own >> 16 | (own + 0x10'0000)));
  return own;
}

}  // namespace

Function* Functions() { return functions; }
size_t FunctionCount() { return function_count; }

void Enumerate() {
  ScanBus(0, nullptr);
  for (size_t i = 0; i < function_count; i++) {
    for (Bar& bar : functions[i].bars) {
      if (bar.size == 0) continue;
      if (bar.base == 0 && bar.io) {
        next_port = static_cast<uint16_t>((next_port + bar.size - 1) & ~(bar.size - 1));
        MoveBar(functions[i], bar, next_port);
        next_port = static_cast<uint16_t>(next_port + bar.size);
      } else if (bar.base == 0) {
        MoveBar(functions[i], bar, FreeAddress(functions[i], bar.size));
      }
      if (!bar.io) MapDevice(bar.base);
    }
  }
}

void SelectConfig(const Function& at, unsigned offset) {
  Out<uint32_t>(0xcf8, 0x8000'0000 | uint32_t{at.bus} << 16 | uint32_t{at.slot} << 11 |
                           uint32_t{at.function} << 8 | (offset & 0xfc));
}

void SetCommand(const Function& at, uint16_t set, uint16_t clear) {
  const auto old = ReadConfig<uint16_t>(at, kCommand);
  WriteConfig(at, kCommand, static_cast<uint16_t>((old & ~clear) | set));
}

unsigned FindCapability(const Function& at, uint8_t id) {
  if ((ReadConfig<uint16_t>(at, kStatus) & 0x10) == 0) return 0;
  unsigned offset = ReadConfig<uint8_t>(at, 0x34) & 0xfc;
  for (int hops = 0; hops < 48 && offset != 0; hops++) {
    if (ReadConfig<uint8_t>(at, offset) == id) return offset;
    offset = ReadConfig<uint8_t>(at, offset + 1) & 0xfc;
  }
  return 0;
}

void MoveBar(const Function& at, Bar& bar, uint64_t base) {
  const auto command = ReadConfig<uint16_t>(at, kCommand);
  SetCommand(at, 0, bar.io ? kIoDecode : kMemoryDecode);
  WriteConfig(at, bar.reg, static_cast<uint32_t>(base));
  if (bar.wide) WriteConfig(at, bar.reg + 4, static_cast<uint32_t>(base >> 32));
  bar.base = base;
  if (!bar.io) MapDevice(base);
  WriteConfig(at, kCommand, command);
}

Bar SizeBar(const Function& at, uint8_t reg) {
  const auto command = ReadConfig<uint16_t>(at, kCommand);
  SetCommand(at, 0, kIoDecode | kMemoryDecode);
  const auto low = ReadConfig<uint32_t>(at, reg);
  WriteConfig(at, reg, 0xffff'ffff);
  const auto low_mask = ReadConfig<uint32_t>(at, reg);
  WriteConfig(at, reg, low);
  Bar bar = {
      .io = (low_mask & 1) != 0, .wide = (low_mask & 7) == 4, .reg = reg, .base = 0, .size = 0};
  const uint32_t flags = bar.io ? 3 : 15;
  bar.base = low & ~flags;
  uint64_t mask = low_mask & ~flags;
  if (bar.io) {
    mask |= 0xffff'0000;
    bar.size = low_mask == 0 ? 0 : (~mask & 0xffff) + 1;
  } else if (bar.wide) {
    const auto high = ReadConfig<uint32_t>(at, reg + 4u);
    WriteConfig(at, reg + 4u, 0xffff'ffff);
    mask |= uint64_t{ReadConfig<uint32_t>(at, reg + 4u)} << 32;
    WriteConfig(at, reg + 4u, high);
    bar.base |= uint64_t{high} << 32;
    bar.size = ~mask + 1;
  } else {
    bar.size = mask == 0 ? 0 : (~mask & 0xffff'ffff) + 1;
  }
  WriteConfig(at, kCommand, command);
  return bar;
}

uint64_t FreeAddress(const Function& at, uint64_t size) {
  uint64_t base = at.bridge != nullptr ? WindowBase(*at.bridge) : 0xd000'0000;
  const uint64_t step = size < 0x1'0000 ? 0x1'0000 : size;
  while (IsTaken(base, size)) base += step;
  return base;
}

uint64_t FindEcam(uint64_t rsdp) {
  constexpr uint64_t kSignature = 0x2052'5450'2044'5352;  // "RSD PTR "
  for (uint64_t at = 0xe'0000; rsdp == 0 && at < 0x10'0000; at += 16) {
    if (Read<uint64_t>(at) == kSignature) rsdp = at;
  }
  if (rsdp == 0 || Read<uint64_t>(rsdp) != kSignature) return 0;
  const bool extended = Read<uint8_t>(rsdp + 15) >= 2 && Read<uint64_t>(rsdp + 24) != 0;
  const uint64_t root = extended ? Read<uint64_t>(rsdp + 24) : Read<uint32_t>(rsdp + 16);
  const uint64_t entry_size = extended ? 8 : 4;
  const uint64_t end = root + Read<uint32_t>(root + 4);
  for (uint64_t entry = root + 36; entry + entry_size <= end; entry += entry_size) {
    const uint64_t table = extended ? Read<uint64_t>(entry) : Read<uint32_t>(entry);
    if (Read<uint32_t>(table) == 0x4746'434d) return Read<uint64_t>(table + 44);  // "MCFG"
  }
  return 0;
}

}  // namespace tiny
