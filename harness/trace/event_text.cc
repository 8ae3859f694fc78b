#include "harness/trace/event_text.h"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>
#include <string_view>

#include "harness/scenario/value.h"
#include "protocol/vfio_user_codec.h"
#include "protocol/vfio_user_extensions.h"

namespace farside::trace {

using vfio_user::Command;
using vfio_user::ExtensionCommand;
using vfio_user::Header;

namespace {

constexpr size_t kShownBytes = 16;
// Commands that wait for their reply, and what is kept of each: more than any peer has.
constexpr size_t kMaxAsked = 65536;
constexpr size_t kMaxAskedText = 200;

std::string CommandText(uint16_t command) {
  if (command == static_cast<uint16_t>(ExtensionCommand::kInterrupt)) return "INTERRUPT";
  if (command == static_cast<uint16_t>(ExtensionCommand::kClockAdvance)) return "CLOCK_ADVANCE";
  const std::string_view name = vfio_user::CommandName(Command{command});
  return name.empty() ? fmt::format("command {:#x}", command) : std::string(name);
}

std::string ValueText(ConstBytes data) {
  if (data.size() <= sizeof(uint64_t)) return fmt::format("{:#x}", LoadLePartial(data));
  return fmt::format("{}{} ({} bytes)",
                     scenario::FormatHex(data.first(std::min(data.size(), kShownBytes))),
                     data.size() > kShownBytes ? "..." : "", data.size());
}

std::string FdText(const FdSpec& fd) {
  switch (fd.kind) {
    case FdSpec::Kind::kMemory:
      return fd.seals == 0 ? fmt::format("memory {:#x}", fd.size)
                           : fmt::format("memory {:#x} seals {:#x}", fd.size, fd.seals);
    case FdSpec::Kind::kEventfd:
      return "eventfd";
    default:
      return "other";
  }
}

std::string FdsText(const Event& event) {
  std::string text = "fds:";
  for (const FdSpec& fd : event.fds) {
    text += fmt::format("{} {}", &fd == &event.fds.front() ? "" : ",", FdText(fd));
  }
  return text;
}

std::string MapText(const vfio_user::DmaMap& map) {
  constexpr std::string_view kAccess[] = {"no access", "r", "w", "rw"};
  return fmt::format("{:#x}+{:#x} {}", map.iova, map.size, kAccess[map.flags & 3]);
}

std::string SetIrqsText(const vfio_user::SetIrqs& irqs) {
  std::string text = fmt::format("{} ", IrqText(irqs.index));
  if (irqs.count == 0 && (irqs.flags & vfio_user::kIrqDataNone) != 0) return text + "disable";
  text += irqs.count == 1 ? fmt::format("{}", irqs.start)
                          : fmt::format("{}+{}", irqs.start, irqs.count);
  constexpr std::pair<uint32_t, std::string_view> kBits[] = {
      {vfio_user::kIrqDataBool, "bool"},         {vfio_user::kIrqDataEventfd, "eventfd"},
      {vfio_user::kIrqActionMask, "mask"},       {vfio_user::kIrqActionUnmask, "unmask"},
      {vfio_user::kIrqActionTrigger, "trigger"}, {vfio_user::kIrqDataInband, "inband"}};
  for (const auto& [bit, name] : kBits) {
    if ((irqs.flags & bit) != 0) text += fmt::format(" {}", name);
  }
  return text;
}

std::string VersionText(const Event& event) {
  const auto version = event.fields<vfio_user::Version>();
  const ConstBytes text = event.data_after<vfio_user::Version>();
  std::string json;
  for (const std::byte byte : text) {
    const auto c = std::to_integer<char>(byte);
    if (c >= 0x20 && c < 0x7f) json.push_back(c);
  }
  return fmt::format("{}.{} {}", version.major, version.minor, json);
}

std::string FeatureText(const vfio_user::DeviceFeature& feature) {
  std::string text = fmt::format("{}", feature.flags & vfio_user::kFeatureIndexMask);
  if ((feature.flags & vfio_user::kFeatureGet) != 0) text += " get";
  if ((feature.flags & vfio_user::kFeatureSet) != 0) text += " set";
  if ((feature.flags & vfio_user::kFeatureProbe) != 0) text += " probe";
  return text;
}

// Commands and replies that need no knowledge of the device.
std::string PlainText(const Event& event) {
  const bool reply = event.is_reply();
  switch (event.command()) {
    case Command::kVersion:
      return VersionText(event);
    case Command::kDmaMap:
      return reply ? std::string() : MapText(event.fields<vfio_user::DmaMap>());
    case Command::kDmaUnmap: {
      const auto unmap = event.fields<vfio_user::DmaUnmap>();
      const bool all = (unmap.flags & vfio_user::kDmaUnmapAll) != 0;
      return all ? "all" : fmt::format("{:#x}+{:#x}", unmap.iova, unmap.size);
    }
    case Command::kDeviceGetInfo: {
      const auto info = event.fields<vfio_user::DeviceInfo>();
      if (!reply) return {};
      return fmt::format("flags {:#x} regions {} irqs {}", info.flags, info.num_regions,
                         info.num_irqs);
    }
    case Command::kDeviceGetRegionInfo: {
      const auto info = event.fields<vfio_user::RegionInfo>();
      const std::string region = RegionText(info.index);
      if (!reply) return region;
      return fmt::format("{} size {:#x} flags {:#x}", region, info.size, info.flags);
    }
    case Command::kDeviceGetRegionIoFds: {
      const auto fds = event.fields<vfio_user::RegionIoFds>();
      const std::string region = RegionText(fds.index);
      return reply ? fmt::format("{} count {}", region, fds.count) : region;
    }
    case Command::kDeviceGetIrqInfo: {
      const auto info = event.fields<vfio_user::IrqInfo>();
      const std::string index = IrqText(info.index);
      return reply ? fmt::format("{} count {} flags {:#x}", index, info.count, info.flags) : index;
    }
    case Command::kDeviceSetIrqs:
      return reply ? std::string() : SetIrqsText(event.fields<vfio_user::SetIrqs>());
    case Command::kDeviceFeature:
      return FeatureText(event.fields<vfio_user::DeviceFeature>());
    case Command::kMigDataRead:
    case Command::kMigDataWrite:
      return fmt::format("{} bytes", event.fields<vfio_user::MigData>().size);
    default:
      break;
  }
  if (event.command() == Command{static_cast<uint16_t>(ExtensionCommand::kInterrupt)}) {
    const auto interrupt = event.fields<vfio_user::Interrupt>();
    return fmt::format("{} {}", IrqText(interrupt.index), interrupt.vector);
  }
  if (event.command() == Command{static_cast<uint16_t>(ExtensionCommand::kClockAdvance)}) {
    return reply ? std::string()
                 : fmt::format("to {} ns", event.fields<vfio_user::ClockAdvance>().time_ns);
  }
  return {};
}

template <typename Entries>
void AppendEntries(const Entries& entries, std::string* text) {
  for (const auto& entry : entries) *text += "; " + NvmeView::Text(entry);
}

}  // namespace

EventText::EventText(const TraceInfo& info) {
  for (const auto& device : info.devices) views_.emplace_back(device.model);
}

std::string EventText::Describe(const Event& event) {
  switch (event.kind) {
    case EventKind::kAttach:
      return "attach";
    case EventKind::kDetach:
      return "detach";
    case EventKind::kSteps:
      return fmt::format("steps {}", LoadLePartial(event.bytes));
    case EventKind::kFds:
      return FdsText(event);
    case EventKind::kMessage:
      break;
  }
  if (event.device >= views_.size()) return CommandText(event.header().command);
  DeviceView& view = views_[event.device];
  // A write to CC that disables the controller, or the completion that deletes a queue, takes away
  // what it is described by.
  std::string text = DescribeMessage(event, view);
  const DeviceView::Seen seen = view.Learn(event);
  AppendEntries(seen.submissions, &text);
  AppendEntries(seen.completions, &text);
  return text;
}

// What the command was that a reply answers.
std::string EventText::TakeAsked(const Event& event) {
  const auto key = std::tuple(event.device, event.direction, event.header().message_id);
  const auto found = asked_.find(key);
  if (found == asked_.end()) return {};
  std::string asked = std::move(found->second);
  asked_.erase(found);
  return asked;
}

std::string EventText::DescribeMessage(const Event& event, const DeviceView& view) {
  const Header header = event.header();
  const bool reply = event.is_reply();
  const std::string asked = reply ? TakeAsked(event) : std::string();
  if (reply && (header.flags & vfio_user::kFlagError) != 0) {
    return fmt::format("{} refused: {}", asked.empty() ? CommandText(header.command) : asked,
                       scenario::ErrnoName(header.error));
  }
  std::string text;
  switch (event.command()) {
    case Command::kRegionRead:
    case Command::kRegionWrite:
    case Command::kRegionWriteMulti:
      text = DescribeAccess(event, view);
      break;
    case Command::kDmaRead:
    case Command::kDmaWrite:
      text = DescribeDma(event, view);
      break;
    default:
      text = PlainText(event);
  }
  text = text.empty() ? CommandText(header.command)
                      : fmt::format("{} {}", CommandText(header.command), text);
  if (reply) return text + (event.command() == Command::kRegionRead ? "" : " done");
  if ((header.flags & vfio_user::kFlagNoReply) == 0) {
    const Direction back = event.direction == Direction::kIn ? Direction::kOut : Direction::kIn;
    if (asked_.size() < kMaxAsked) {
      asked_[{event.device, back, header.message_id}] = text.substr(0, kMaxAskedText);
    }
  } else if (header.command != static_cast<uint16_t>(ExtensionCommand::kInterrupt)) {
    text += " (posted)";
  }
  return text;
}

std::string EventText::DescribeAccess(const Event& event, const DeviceView& view) {
  const bool reply = event.is_reply();
  if (event.command() == Command::kRegionWriteMulti) {
    if (reply) return fmt::format("{}", event.fields<vfio_user::WriteMulti>().count);
    const vfio_user::RegionWriteMultiRequest multi{event.data_after<vfio_user::WriteMulti>()};
    std::string text;
    for (size_t i = 0; i < multi.count(); ++i) {
      const vfio_user::WriteMultiEntry entry = multi.entry(i);
      const auto size = std::min<size_t>(entry.count, sizeof entry.data);
      text +=
          fmt::format("{}{} = {}", i == 0 ? "" : ", ", view.PlaceName(entry.region, entry.offset),
                      ValueText(std::as_bytes(std::span(entry.data)).first(size)));
    }
    return text;
  }
  const auto access = event.fields<vfio_user::RegionAccess>();
  const ConstBytes data = event.data_after<vfio_user::RegionAccess>();
  std::string text = view.PlaceName(access.region, access.offset);
  const bool has_data = reply == (event.command() == Command::kRegionRead);
  if (has_data) {
    text += fmt::format(" = {}{}", ValueText(data),
                        view.FieldsText(access.region, access.offset, data));
  } else if (!reply) {
    text += fmt::format(" ({})", access.count);
  }
  return text;
}

std::string EventText::DescribeDma(const Event& event, const DeviceView& view) {
  const auto access = event.fields<vfio_user::DmaAccess>();
  return fmt::format("{:#x}+{:#x}{}", access.iova, access.count,
                     view.MemoryName(access.iova, access.count));
}

std::string LinePrefix(const TraceInfo& info, const Event& event) {
  const bool several = info.devices.size() > 1 && event.device < info.devices.size();
  return fmt::format("{:>7} {:>12.6f} {}{} {} ", event.number,
                     static_cast<double>(event.time_ns) / 1e9,
                     several ? info.devices[event.device].id : "", several ? " " : "",
                     event.direction == Direction::kIn ? '>' : '<');
}

std::string HexDump(ConstBytes data) {
  constexpr size_t kRow = 16;
  std::string out;
  for (size_t at = 0; at < data.size(); at += kRow) {
    const ConstBytes row = data.subspan(at, std::min(kRow, data.size() - at));
    std::string hex;
    std::string text;
    for (const std::byte byte : row) {
      const auto c = std::to_integer<unsigned char>(byte);
      hex += fmt::format("{:02x} ", c);
      text.push_back(c >= 0x20 && c < 0x7f ? static_cast<char>(c) : '.');
    }
    out += fmt::format("          {:06x}  {:<{}} {}\n", at, hex, kRow * 3, text);
  }
  return out;
}

ConstBytes DataOf(const Event& event) {
  if (!event.is_message()) return {};
  switch (event.command()) {
    case Command::kRegionRead:
    case Command::kRegionWrite:
    case Command::kDmaRead:
    case Command::kDmaWrite:
      return event.data_after<vfio_user::RegionAccess>();
    default:
      return event.payload();
  }
}

}  // namespace farside::trace
