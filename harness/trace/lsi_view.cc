#include "harness/trace/lsi_view.h"

#include <fmt/format.h>

#include <optional>
#include <string_view>

#include "devices/lsi53c895a/registers.h"

namespace farside::trace {

using namespace lsi53c895a;  // NOLINT: this file is of its registers.

namespace {

struct Bit {
  Reg reg;
  uint8_t mask;
  std::string_view name;
};

// Registers of one byte: what a driver decides by.
constexpr Bit kBits[] = {
    {kScntl1, kScntl1Rst, "RST"},   {kScntl1, kScntl1Con, "CON"},   {kScntl1, kScntl1Iarb, "IARB"},
    {kDstat, kDstatDfe, "DFE"},     {kDstat, kDstatMdpe, "MDPE"},   {kDstat, kDstatBf, "BF"},
    {kDstat, kDstatAbrt, "ABRT"},   {kDstat, kDstatSsi, "SSI"},     {kDstat, kDstatSir, "SIR"},
    {kDstat, kDstatIid, "IID"},     {kIstat0, kIstat0Abrt, "ABRT"}, {kIstat0, kIstat0Srst, "SRST"},
    {kIstat0, kIstat0Sigp, "SIGP"}, {kIstat0, kIstat0Sem, "SEM"},   {kIstat0, kIstat0Con, "CON"},
    {kIstat0, kIstat0Intf, "INTF"}, {kIstat0, kIstat0Sip, "SIP"},   {kIstat0, kIstat0Dip, "DIP"},
    {kIstat1, kIstat1Srun, "SRUN"}, {kIstat1, kIstat1Si, "SI"},     {kSist0, kSist0Ma, "M/A"},
    {kSist0, kSist0Cmp, "CMP"},     {kSist0, kSist0Sel, "SEL"},     {kSist0, kSist0Rsl, "RSL"},
    {kSist0, kSist0Sge, "SGE"},     {kSist0, kSist0Udc, "UDC"},     {kSist0, kSist0Rst, "RST"},
    {kSist0, kSist0Par, "PAR"},     {kSist1, kSist1Sbmc, "SBMC"},   {kSist1, kSist1Sto, "STO"},
    {kSist1, kSist1Gen, "GEN"},     {kSist1, kSist1Hth, "HTH"},
};

// Where in the operating registers an access goes.
std::optional<uint64_t> RegisterOffset(uint32_t region, uint64_t offset) {
  if (region == kIoBar && offset < kRegisterSize) return offset;
  if (region == kMemoryBar && offset < kMemoryBarSize) return offset % kRegisterSize;
  return std::nullopt;
}

}  // namespace

std::string LsiPlaceName(uint32_t region, uint64_t offset) {
  if (region == kRamBar) return fmt::format("SCRIPTS RAM+{:#x}", offset);
  const auto at = RegisterOffset(region, offset);
  if (!at) return {};
  for (const RegisterDef& row : kRegisters) {
    if (*at < row.offset || *at - row.offset >= row.width) continue;
    return *at == row.offset ? std::string(row.name)
                             : fmt::format("{}+{}", row.name, *at - row.offset);
  }
  return {};
}

std::string LsiFieldsText(uint32_t region, uint64_t offset, ConstBytes data) {
  const auto at = RegisterOffset(region, offset);
  std::string text;
  if (!at) return text;
  for (const Bit& bit : kBits) {
    const uint64_t place = OffsetOf(bit.reg);
    if (place < *at || place - *at >= data.size()) continue;
    if ((std::to_integer<uint8_t>(data[place - *at]) & bit.mask) != 0) {
      text += fmt::format(" {}", bit.name);
    }
  }
  return text;
}

}  // namespace farside::trace
