#include "harness/trace/guest_writes.h"

#include <algorithm>

namespace farside::trace {

using vfio_user::Command;

bool IsGuestEvent(const Event& event) {
  return event.is_message() && event.direction == Direction::kIn && !event.is_reply();
}

Result<std::unique_ptr<GuestWrites>> GuestWrites::Open(const std::string& path, uint32_t device) {
  auto source = OpenEvents(path);
  if (!source) return tl::unexpected(source.error());
  return std::unique_ptr<GuestWrites>(new GuestWrites(std::move(*source), device));
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
    const auto event = source_->Next();
    if (!event) return tl::unexpected(event.error());
    if (!*event) {
      at_end_ = true;
      break;
    }
    ++number_;
    if ((*event)->is_message() && (*event)->device == device_) OnEvent(**event);
  }
  return {};
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
    asked_[key] = event.fields<vfio_user::DmaAccess>();
    return;
  }
  const auto asked = asked_.find(key);
  if (asked == asked_.end()) return;
  const vfio_user::DmaAccess access = asked->second;
  asked_.erase(asked);
  if ((event.header().flags & vfio_user::kFlagError) != 0) {
    if (event.header().error != ECANCELED) refused_.push_back(access);
  } else if (event.command() == Command::kDmaRead) {
    OnRead(access.iova, event.data_after<vfio_user::DmaAccess>());
  } else {
    for (uint64_t at = access.iova / kGranule; at * kGranule < access.iova + access.count; ++at) {
      Touch(at);
    }
  }
}

uint64_t GuestWrites::Touch(uint64_t granule) {
  const uint64_t number = granule / kGranulesPerPage;
  if (touched_ == nullptr || touched_number_ != number) {
    const auto [page, is_new] = next_writable_.try_emplace(number);
    if (is_new) page->second.fill(0);
    touched_ = &page->second;
    touched_number_ = number;
  }
  return std::exchange((*touched_)[granule % kGranulesPerPage], ordinal_);
}

void GuestWrites::OnRead(uint64_t iova, ConstBytes data) {
  // Neighbours that may be written at the same time are one write.
  uint64_t run_ordinal = 0;
  uint64_t run_begin = 0;
  for (uint64_t done = 0; done < data.size();) {
    const uint64_t here = std::min(kGranule - (iova + done) % kGranule, data.size() - done);
    const uint64_t ordinal = std::min(Touch((iova + done) / kGranule), ordinal_);
    if (done != run_begin && ordinal != run_ordinal) {
      Add(run_ordinal, iova + run_begin, data.subspan(run_begin, done - run_begin));
      run_begin = done;
    }
    run_ordinal = ordinal;
    done += here;
  }
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
