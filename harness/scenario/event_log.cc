#include "harness/scenario/event_log.h"

#include <algorithm>
#include <cstring>

#include "base/check.h"
#include "harness/scenario/value.h"

namespace farside::scenario {

using nlohmann::json;

namespace {

constexpr size_t kMaxText = 200;
constexpr size_t kPreview = 32;  // Bytes.
constexpr uint64_t kPageSize = GuestMemory::kPageSize;

}  // namespace

void EventLog::AddRecent(std::string text) {
  if (text.size() > kMaxText) text = text.substr(0, kMaxText) + "...";
  recent_.push_back(std::move(text));
  if (recent_.size() > kRecent) recent_.pop_front();
}

void EventLog::AddGuestEvent(std::string_view verb, json params) {
  AddRecent(fmt::format("{} {}", verb, params.dump()));
  if (keeps_events()) steps_.push_back({{std::string(verb), std::move(params)}});
}

void EventLog::AddDeviceEvent(std::string text) { AddRecent(std::move(text)); }

void EventLog::AddStep(json step) {
  if (flat_) steps_.push_back(std::move(step));
}

std::string EventLog::Hex(ConstBytes bytes) const {
  if (keeps_events() || bytes.size() <= kPreview) return FormatHex(bytes);
  return fmt::format("{}... ({} bytes)", FormatHex(bytes.first(kPreview)), bytes.size());
}

TappedMemory::TappedMemory(GuestMemory& memory, EventLog& log) : memory_(memory), log_(log) {
  if (!log.flat()) return;
  for (const MemoryRange& range : memory.ranges()) {
    shadows_.push_back({range.iova, std::vector<std::byte>(range.size)});
  }
}

int TappedMemory::OnDmaRead(uint64_t iova, Bytes out) {
  const int error = memory_.OnDmaRead(iova, out);
  log_.AddDeviceEvent(
      fmt::format("device reads {:#x}+{:#x}{}", iova, out.size(),
                  error == 0 ? "" : ": " + ErrnoName(static_cast<uint64_t>(error))));
  return error;
}

int TappedMemory::OnDmaWrite(uint64_t iova, ConstBytes in) {
  const int error = memory_.OnDmaWrite(iova, in);
  log_.AddDeviceEvent(fmt::format("device writes {:#x}+{:#x}{}: {}", iova, in.size(),
                                  error == 0 ? "" : ": " + ErrnoName(static_cast<uint64_t>(error)),
                                  FormatHex(in.first(std::min(in.size(), kPreview)))));
  if (error != 0 || !log_.flat()) return error;
  last_iova_ = iova;
  last_write_.assign(in.begin(), in.end());
  for (Shadow& shadow : shadows_) {
    const uint64_t begin = std::max(iova, shadow.iova);
    const uint64_t end = std::min(iova + in.size(), shadow.iova + shadow.bytes.size());
    if (begin >= end) continue;
    Copy(Bytes(shadow.bytes).subspan(begin - shadow.iova), in.subspan(begin - iova, end - begin));
  }
  return error;
}

// Calls visit(iova, bytes) for each run of bytes that differs from the shadow, which then does not
// any more. Runs that are less than 16 bytes apart are one.
template <typename Visit>
void TappedMemory::ForEachChange(const Visit& visit) {
  constexpr size_t kGap = 16;
  std::vector<std::byte> page(kPageSize);
  for (Shadow& shadow : shadows_) {
    for (uint64_t at = 0; at < shadow.bytes.size(); at += kPageSize) {
      CHECK(memory_.Read(shadow.iova + at, page).has_value());
      const Bytes old = Bytes(shadow.bytes).subspan(at, kPageSize);
      if (std::memcmp(old.data(), page.data(), kPageSize) == 0) continue;
      for (size_t begin = 0; begin < kPageSize; ++begin) {
        if (page[begin] == old[begin]) continue;
        size_t end = begin + 1;
        for (size_t i = end; i < kPageSize && i - end < kGap; ++i) {
          if (page[i] != old[i]) end = i + 1;
        }
        visit(shadow.iova + at + begin, ConstBytes(page).subspan(begin, end - begin));
        begin = end;
      }
      Copy(old, page);
    }
  }
}

void TappedMemory::LogChanges() {
  if (!last_write_.empty()) {
    log_.AddGuestEvent("memory.check", {{"iova", fmt::format("{:#x}", last_iova_)},
                                        {"data", log_.Hex(last_write_)},
                                        {"wait", true}});
    last_write_.clear();
  }
  ForEachChange([this](uint64_t iova, ConstBytes bytes) {
    log_.AddGuestEvent("memory.write",
                       {{"iova", fmt::format("{:#x}", iova)}, {"data", log_.Hex(bytes)}});
  });
}

void TappedMemory::SkipChanges() {
  last_write_.clear();
  ForEachChange([](uint64_t, ConstBytes) {});
}

}  // namespace farside::scenario
