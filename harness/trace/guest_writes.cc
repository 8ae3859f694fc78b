#include "harness/trace/guest_writes.h"

#include <algorithm>
#include <utility>

namespace farside::trace {

using vfio_user::Command;

bool IsGuestEvent(const Event& event) {
  return event.is_message() && event.direction == Direction::kIn && !event.is_reply();
}

Result<std::unique_ptr<GuestWrites>> GuestWrites::Open(const std::string& path, uint32_t device,
                                                       bool keeps_accesses) {
  auto source = OpenEvents(path);
  if (!source) return tl::unexpected(source.error());
  return std::unique_ptr<GuestWrites>(new GuestWrites(std::move(*source), device, keeps_accesses));
}

Result<std::vector<GuestWrites::Write>> GuestWrites::Before(uint64_t ordinal, uint32_t number) {
  applied_ = ordinal;
  if (auto ran = RunAhead(number); !ran) return tl::unexpected(ran.error());
  std::vector<Write> writes;
  while (!due_.empty() && due_.begin()->first <= ordinal) {
    bytes_due_ -= due_.begin()->second.data.size();
    writes.push_back(std::move(due_.begin()->second));
    due_.erase(due_.begin());
  }
  return writes;
}

Result<void> GuestWrites::RunAhead(uint32_t number) {
  while (!at_end_ &&
         (number_ < number || (number_ - number < kEventsAhead && bytes_due_ < kBytesAhead))) {
    if (auto read = ReadEvent(); !read) return read;
  }
  return {};
}

Result<void> GuestWrites::ReadEvent() {
  const auto event = source_->Next();
  if (!event) return tl::unexpected(event.error());
  at_end_ = !*event;
  if (at_end_) return {};
  ++number_;
  if ((*event)->is_message() && (*event)->device == device_) OnEvent(**event);
  return {};
}

Result<const GuestWrites::Access*> GuestWrites::NextAccess() {
  while (accesses_.empty() && !at_end_) {
    if (auto read = ReadEvent(); !read) return tl::unexpected(read.error());
  }
  return accesses_.empty() ? nullptr : &accesses_.front();
}

GuestWrites::Access GuestWrites::TakeAccess() {
  Access access = std::move(accesses_.front());
  accesses_.pop_front();
  bytes_due_ -= access.data.size();
  return access;
}

void GuestWrites::KeepAccess(const Access& asked, const Event& answer) {
  Access& access = accesses_.emplace_back(asked);
  const bool refused = (answer.header().flags & vfio_user::kFlagError) != 0;
  if (refused) access.error = static_cast<int>(answer.header().error);
  if (refused || access.command != Command::kDmaRead) return;
  const ConstBytes data = answer.data_after<vfio_user::DmaAccess>();
  access.data.assign(data.begin(), data.end());
  bytes_due_ += data.size();
}

void GuestWrites::OnEvent(const Event& event) {
  if (IsGuestEvent(event)) {
    ++ordinal_;
    return;
  }
  const bool is_dma = event.command() == Command::kDmaRead || event.command() == Command::kDmaWrite;
  if (!is_dma) return;
  const uint16_t key = event.header().message_id;
  if (!event.is_reply()) {
    asked_[key] = {.command = event.command(),
                   .range = event.fields<vfio_user::DmaAccess>(),
                   .has_payload = !event.data_after<vfio_user::DmaAccess>().empty(),
                   .data = {}};
    return;
  }
  const auto asked = asked_.find(key);
  if (asked == asked_.end()) return;
  const vfio_user::DmaAccess access = asked->second.range;
  if (keeps_accesses_) KeepAccess(asked->second, event);
  asked_.erase(asked);
  if ((event.header().flags & vfio_user::kFlagError) != 0) {
    if (event.header().error != ECANCELED) refused_.push_back(access);
  } else if (event.command() == Command::kDmaRead) {
    OnRead(access.iova, event.data_after<vfio_user::DmaAccess>());
  } else {
    Touch(access.iova, access.count, [](uint64_t, uint64_t, uint64_t) {});
  }
}

void GuestWrites::Page::Split() {
  if (bytes) return;
  bytes = std::make_unique<std::array<uint32_t, kPageSize>>();
  for (size_t i = 0; i < kPageSize; ++i) (*bytes)[i] = granules[i / kGranule];
}

template <typename Use>
void GuestWrites::Touch(uint64_t iova, uint64_t size, Use&& use) {
  const auto now = static_cast<uint32_t>(ordinal_);
  for (uint64_t done = 0; done < size;) {
    const uint64_t at = (iova + done) % kPageSize;
    const uint64_t end = std::min(at + (size - done), kPageSize);
    Page& page = next_writable_[(iova + done) / kPageSize];
    if (at % kGranule != 0 || end % kGranule != 0) page.Split();
    const uint64_t unit = page.bytes ? 1 : kGranule;
    uint32_t* const ordinals = page.bytes ? page.bytes->data() : page.granules.data();
    for (uint64_t i = at / unit; i < end / unit; ++i, done += unit) {
      use(done, unit, std::exchange(ordinals[i], now));
    }
  }
}

void GuestWrites::OnRead(uint64_t iova, ConstBytes data) {
  // Neighbours that may be written at the same time are one write.
  uint64_t run_ordinal = 0;
  uint64_t run_begin = 0;
  Touch(iova, data.size(), [&](uint64_t at, uint64_t, uint64_t ordinal) {
    if (at != run_begin && ordinal != run_ordinal) {
      Add(run_ordinal, iova + run_begin, data.subspan(run_begin, at - run_begin));
      run_begin = at;
    }
    run_ordinal = ordinal;
  });
  Add(run_ordinal, iova + run_begin, data.subspan(run_begin));
}

void GuestWrites::Add(uint64_t ordinal, uint64_t iova, ConstBytes data) {
  // Bytes accessed twice between two guest events: the device read what it or the guest had put
  // there already.
  if (data.empty() || (ordinal == ordinal_ && ordinal_ != 0)) return;
  bytes_due_ += data.size();
  due_.emplace(ordinal, Write{iova, {data.begin(), data.end()}});
}

bool GuestWrites::Refused(uint64_t iova, uint64_t size) const {
  return std::ranges::any_of(refused_, [&](const vfio_user::DmaAccess& access) {
    return iova < access.iova ? access.iova - iova < size : iova - access.iova < access.count;
  });
}

}  // namespace farside::trace
