#include "devices/server/irq_table.h"

#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/stat.h>

#include <cerrno>
#include <memory>
#include <utility>

#include "base/check.h"

namespace farside {
namespace {

// An eventfd lies in no file system: it has no file type. It is made non-blocking, or a peer that
// fills its counter would block us.
Result<void> PrepareEventfd(int fd) {
  struct stat status {};
  if (fstat(fd, &status) != 0 || (status.st_mode & S_IFMT) != 0) {
    return FailWith(EINVAL, "the fd of an interrupt is no eventfd");
  }
  return SetNonBlocking(fd);
}

}  // namespace

IrqTable::~IrqTable() = default;

void IrqTable::SetCounts(const DeviceInfo& info) {
  entries(IrqIndex::kIntx).resize(info.intx_count);
  entries(IrqIndex::kMsi).resize(info.msi_count);
  entries(IrqIndex::kMsix).resize(info.msix_count);
  entries(IrqIndex::kError).resize(1);
  entries(IrqIndex::kRequest).resize(1);
}

Result<void> IrqTable::Arm(IrqIndex index, uint32_t start, std::vector<UniqueFd> fds) {
  for (const UniqueFd& fd : fds) {
    if (const auto prepared = PrepareEventfd(fd.get()); !prepared) return prepared;
  }
  for (size_t i = 0; i < fds.size(); ++i) {
    Entry& entry = entries(index)[start + i];
    entry.eventfd = std::move(fds[i]);
    if (std::exchange(entry.pending, false)) SignalEventfd(entry.eventfd.get());
  }
  if (index == IrqIndex::kIntx && !fds.empty()) {
    intx_masked_ = false;
    intx_resampled_ = false;
    FireIntx();
  }
  return {};
}

Result<void> IrqTable::ArmIntxResampled(UniqueFd interrupt, UniqueFd resample) {
  if (const auto prepared = PrepareEventfd(interrupt.get()); !prepared) return prepared;
  if (const auto watched = SetIntxUnmaskFd(std::move(resample)); !watched) return watched;
  entries(IrqIndex::kIntx).front() = {.eventfd = std::move(interrupt)};
  intx_masked_ = false;
  intx_resampled_ = true;
  FireIntx();
  return {};
}

void IrqTable::ArmInband(IrqIndex index, uint32_t start, uint32_t count,
                         InbandInterrupts& channel) {
  for (uint32_t i = start; i < start + count; ++i) {
    Entry& entry = entries(index)[i];
    entry.eventfd.reset();
    entry.inband = &channel;
    if (std::exchange(entry.pending, false)) Send(index, i);
  }
  if (index == IrqIndex::kIntx && count != 0 && intx_asserted_) Send(index, 0);
}

void IrqTable::Disarm(IrqIndex index, uint32_t start, uint32_t count) {
  for (uint32_t i = 0; i < count; ++i) {
    Entry& entry = entries(index)[start + i];
    entry.eventfd.reset();
    entry.inband = nullptr;
  }
  if (index == IrqIndex::kIntx && count != 0) unmask_watcher_.reset();
}

void IrqTable::DisarmAll() {
  for (auto& index : entries_) {
    for (Entry& entry : index) entry = {};
  }
  unmask_watcher_.reset();
  intx_masked_ = false;
  intx_resampled_ = false;
}

void IrqTable::Trigger(IrqIndex index, uint32_t vector) {
  if (entries(index)[vector].armed()) Send(index, vector);
}

void IrqTable::Send(IrqIndex index, uint32_t vector) {
  const Entry& entry = entries(index)[vector];
  if (entry.inband != nullptr) return entry.inband->SendInterrupt(index, vector);
  SignalEventfd(entry.eventfd.get());
}

void IrqTable::Signal(IrqIndex index, uint32_t vector) {
  CHECK(vector < count(index));
  Entry& entry = entries(index)[vector];
  if (entry.armed()) {
    Send(index, vector);
  } else {
    entry.pending = true;
  }
}

bool IrqTable::msix_pending(uint32_t vector) const {
  return entries(IrqIndex::kMsix)[vector].pending;
}

void IrqTable::ClearPending() {
  for (auto& index : entries_) {
    for (Entry& entry : index) entry.pending = false;
  }
}

void IrqTable::MaskIntx() { intx_masked_ = true; }

void IrqTable::UnmaskIntx() {
  intx_masked_ = false;
  FireIntx();
}

void IrqTable::SetIntx(bool asserted) {
  const bool rises = asserted && !intx_asserted_;
  intx_asserted_ = asserted;
  const auto& intx = entries(IrqIndex::kIntx);
  if (intx.empty()) return;
  const bool by_edge = intx.front().inband != nullptr || intx_resampled_;
  if (!by_edge) return FireIntx();
  if (rises && intx.front().armed()) Send(IrqIndex::kIntx, 0);
}

void IrqTable::FireIntx() {
  if (!intx_asserted_ || intx_masked_ || entries(IrqIndex::kIntx).empty()) return;
  const Entry& entry = entries(IrqIndex::kIntx).front();
  if (!entry.eventfd) return;
  intx_masked_ = !intx_resampled_;
  SignalEventfd(entry.eventfd.get());
}

Result<void> IrqTable::SetIntxUnmaskFd(UniqueFd fd) {
  if (!fd) {
    unmask_watcher_.reset();
    return {};
  }
  if (const auto prepared = PrepareEventfd(fd.get()); !prepared) return prepared;
  auto watcher = std::make_unique<UnmaskWatcher>(*this, std::move(fd));
  if (const auto watched = watcher->Start(loop_); !watched) return watched;
  unmask_watcher_ = std::move(watcher);
  return {};
}

void IrqTable::UnmaskWatcher::OnReady(uint32_t) {
  if (DrainEventfd(fd_.get()) != 0) return table_.UnmaskIntx();
  // Ready without a count: another file without a type. It would be ready for ever.
  watch_.Stop();
}

}  // namespace farside
