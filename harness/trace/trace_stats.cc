#include "harness/trace/trace_stats.h"

#include <fmt/format.h>

#include <algorithm>

#include "harness/trace/event_text.h"
#include "protocol/vfio_user_codec.h"
#include "protocol/vfio_user_extensions.h"

namespace farside::trace {

using vfio_user::Command;

namespace {

constexpr auto kInterrupt = static_cast<uint16_t>(vfio_user::ExtensionCommand::kInterrupt);

}  // namespace

TraceStats::TraceStats(const TraceInfo& info) : info_(info) {
  for (const auto& device : info.devices) views_.emplace_back(device.model);
}

void TraceStats::Add(const Event& event) {
  if (events_++ == 0) first_ns_ = event.time_ns;
  last_ns_ = std::max(last_ns_, event.time_ns);
  if (event.kind == EventKind::kAttach) ++clients_;
  if (event.is_message()) AddMessage(event);
}

void TraceStats::AddAccess(const Event& event, uint32_t region, uint64_t offset, bool write) {
  Accesses* accesses = &other_places_;
  // A register is one place, however it is accessed: its name stands for it.
  DeviceView::Group group = views_[event.device].PlaceGroup(region, offset);
  const Place place{event.device, region, group.offset};
  const auto found = places_.find(place);
  if (found != places_.end()) {
    accesses = &found->second.second;
  } else if (places_.size() < kMaxRows) {
    auto& row = places_[place];
    row.first = std::move(group.name);
    accesses = &row.second;
  }
  ++(write ? accesses->writes : accesses->reads);
}

void TraceStats::AddMessage(const Event& event) {
  const vfio_user::Header header = event.header();
  const bool reply = event.is_reply();
  const bool refused = reply && (header.flags & vfio_user::kFlagError) != 0;
  if (header.command == kInterrupt) {
    const auto interrupt = event.fields<vfio_user::Interrupt>();
    const Place vector{event.device, interrupt.index, interrupt.vector};
    ++interrupts_;
    if (vectors_.size() < kMaxRows || vectors_.contains(vector)) ++vectors_[vector];
    return;
  }
  ++messages_;
  if (!reply) ++commands_[header.command].sent;
  if (refused) ++commands_[header.command].refused;

  const uint64_t size = event.bytes.size();
  if (biggest_.size() < kBiggest || size > std::get<0>(biggest_.back())) {
    const std::string_view name = vfio_user::CommandName(event.command());
    biggest_.emplace_back(size, event.number, fmt::format("{}{}", name, reply ? " reply" : ""));
    std::ranges::stable_sort(biggest_, std::greater<>(),
                             [](const auto& row) { return std::get<0>(row); });
    if (biggest_.size() > kBiggest) biggest_.pop_back();
  }
  if (event.device >= views_.size() || refused) return;
  switch (event.command()) {
    case Command::kRegionRead:
    case Command::kRegionWrite:
      if (!reply) {
        const auto access = event.fields<vfio_user::RegionAccess>();
        AddAccess(event, access.region, access.offset, event.command() == Command::kRegionWrite);
      }
      break;
    case Command::kRegionWriteMulti:
      if (!reply) {
        const vfio_user::RegionWriteMultiRequest multi{event.data_after<vfio_user::WriteMulti>()};
        for (size_t i = 0; i < multi.count(); ++i) {
          AddAccess(event, multi.entry(i).region, multi.entry(i).offset, true);
        }
      }
      break;
    case Command::kDmaRead:
      if (reply) dma_read_bytes_ += event.data_after<vfio_user::DmaAccess>().size();
      break;
    case Command::kDmaWrite:
      if (!reply) dma_written_bytes_ += event.data_after<vfio_user::DmaAccess>().size();
      break;
    default:
      break;
  }
  AddNvme(event);
}

void TraceStats::AddNvme(const Event& event) {
  DeviceView& view = views_[event.device];
  const DeviceView::Seen seen = view.Learn(event);
  for (const NvmeSubmission& submission : seen.submissions) {
    NvmeCommands& row = nvme_[{event.device, submission.admin(), submission.sqe.opcode}];
    const uint64_t size = view.nvme().TransferSize(submission);
    ++row.count;
    row.bytes += size;
    row.least = std::min(row.least, size);
    row.most = std::max(row.most, size);
  }
  for (const NvmeCompletion& completion : seen.completions) {
    if (!completion.sqe || nvme::StatusOf(completion.cqe) == nvme::Status::kSuccess) continue;
    ++nvme_[{event.device, completion.admin(), completion.sqe->opcode}].failed;
  }
}

std::string TraceStats::DeviceText(uint32_t device) const {
  return info_.devices.size() > 1 ? info_.devices[device].id + " " : std::string();
}

std::string TraceStats::TotalsText() const {
  std::string text;
  const auto row = [&](auto value, std::string_view what) {
    text += fmt::format("{:>10} {}\n", value, what);
  };
  row(events_, "events");
  // A device tap does not see them come and go.
  if (clients_ != 0) row(clients_, clients_ == 1 ? "client" : "clients");
  row(messages_, "messages");
  row(dma_read_bytes_, "bytes read by DMA");
  row(dma_written_bytes_, "bytes written by DMA");
  row(interrupts_, "interrupts");
  row(fmt::format("{:.3f}", static_cast<double>(last_ns_ - first_ns_) / 1e9), "s");
  return text;
}

std::string TraceStats::NvmeText() const {
  if (nvme_.empty()) return {};
  std::string text = "\nNVMe commands\n";
  for (const auto& [key, row] : nvme_) {
    const auto& [device, admin, opcode] = key;
    const std::string_view name = nvme::OpcodeName(admin, opcode);
    text +=
        fmt::format("{:>10} {}nvme {}", row.count, DeviceText(device),
                    name.empty() ? fmt::format("{} opcode {:#x}", admin ? "admin" : "I/O", opcode)
                                 : std::string(name));
    if (row.bytes != 0) {
      text += fmt::format(", {} bytes, {} to {} each", row.bytes, row.least, row.most);
    }
    if (row.failed != 0) text += fmt::format(", {} failed", row.failed);
    text += "\n";
  }
  return text;
}

std::string TraceStats::Report() const {
  std::string text = TotalsText() + "\nMessages\n";
  for (const auto& [command, row] : commands_) {
    const std::string_view name = vfio_user::CommandName(Command{command});
    text += fmt::format("{:>10} {}", row.sent,
                        name.empty() ? fmt::format("command {:#x}", command) : std::string(name));
    text += row.refused == 0 ? "\n" : fmt::format(", {} refused\n", row.refused);
  }
  if (!places_.empty()) text += "\nRegisters\n     reads     writes\n";
  for (const auto& [place, row] : places_) {
    text += fmt::format("{:>10} {:>10} {}{}\n", row.second.reads, row.second.writes,
                        DeviceText(std::get<0>(place)), row.first);
  }
  if (other_places_.reads + other_places_.writes != 0) {
    text += fmt::format("{:>10} {:>10} elsewhere\n", other_places_.reads, other_places_.writes);
  }
  text += NvmeText();
  if (!vectors_.empty()) text += "\nInterrupts\n";
  for (const auto& [vector, count] : vectors_) {
    text += fmt::format("{:>10} {}interrupts {} {}\n", count, DeviceText(std::get<0>(vector)),
                        IrqText(std::get<1>(vector)), std::get<2>(vector));
  }
  if (!biggest_.empty()) text += "\nBiggest messages\n";
  for (const auto& [size, number, what] : biggest_) {
    text += fmt::format("{:>10} bytes: event {}, {}\n", size, number, what);
  }
  return text;
}

}  // namespace farside::trace
