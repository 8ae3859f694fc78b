#include "devices/server/dma_messages.h"

#include <algorithm>
#include <utility>

#include "base/check.h"

namespace farside {

using vfio_user::Command;

class DmaMessages::Access {
 public:
  Access(DmaMessages& messages, uint64_t iova, uint64_t size)
      : messages_(messages), iova_(iova), size_(size) {
    messages_.accesses_.push_back(this);
  }
  Access(const Access&) = delete;
  Access& operator=(const Access&) = delete;
  ~Access() { std::erase(messages_.accesses_, this); }

  bool Touches(uint64_t iova, uint64_t size) const {
    return iova_ < iova ? iova - iova_ < size_ : iova_ - iova < size;
  }

  // What comes next, sent or waiting for a free id, must be answered by then.
  void set_deadline(uint64_t deadline_ns) { deadline_ns_ = deadline_ns; }
  uint64_t deadline() const { return deadline_ns_; }

  void Cancel() {
    cancelled_ = true;
    Finish(DmaStatus::kCancelled);
  }
  bool cancelled() const { return cancelled_; }

  // A command is on the wire; a read's reply goes to `out`.
  void BeginWait(Completion<DmaStatus>& done, Bytes out) {
    done_ = &done;
    out_ = out;
  }
  bool waits() const { return done_ != nullptr; }
  Bytes out() const { return out_; }
  void Finish(DmaStatus status) {
    if (auto* done = std::exchange(done_, nullptr)) done->Set(status);
  }

 private:
  DmaMessages& messages_;
  const uint64_t iova_;
  const uint64_t size_;
  uint64_t deadline_ns_ = UINT64_MAX;
  bool cancelled_ = false;
  Completion<DmaStatus>* done_ = nullptr;
  Bytes out_;
};

DmaMessages::DmaMessages(Loop& loop)
    : loop_(loop), slot_free_(loop), expiry_(loop, [this] { Expire(); }) {}

DmaMessages::~DmaMessages() { CHECK(channel_ == nullptr); }

void DmaMessages::Attach(Channel& channel, uint64_t max_transfer) {
  CHECK(channel_ == nullptr);
  channel_ = &channel;
  max_transfer_ = std::min(max_transfer, kMaxTransfer);
}

void DmaMessages::Detach() {
  CancelAll();
  for (Pending& pending : pending_) pending.reserved = false;
  read_bytes_in_flight_ = 0;
  channel_ = nullptr;
  expiry_.Disarm();
}

template <typename Selects>
void DmaMessages::CancelIf(Selects&& selects) {
  for (Access* access : accesses_) {
    if (selects(*access)) access->Cancel();
  }
  for (Pending& pending : pending_) {
    if (pending.access != nullptr && pending.access->cancelled()) pending.access = nullptr;
  }
  slot_free_.NotifyAll();
}

void DmaMessages::CancelAll() {
  CancelIf([](const Access&) { return true; });
}

void DmaMessages::Cancel(uint64_t iova, uint64_t size) {
  CancelIf([&](const Access& access) { return access.Touches(iova, size); });
}

DmaMessages::Pending* DmaMessages::FindFree(uint64_t reply_bytes) {
  if (reply_bytes != 0 && reply_bytes + read_bytes_in_flight_ > kMaxReadBytesInFlight) {
    return nullptr;
  }
  const auto found = std::ranges::find(pending_, false, &Pending::reserved);
  return found == pending_.end() ? nullptr : &*found;
}

bool DmaMessages::OnReply(const vfio_user::Frame& reply) {
  const uint16_t id = reply.header.message_id;
  if (id >= pending_.size() || !pending_[id].reserved) return false;
  Pending& pending = pending_[id];
  if (reply.command() != pending.command) return false;
  Access* const access = std::exchange(pending.access, nullptr);
  pending.reserved = false;
  if (pending.command == Command::kDmaRead) read_bytes_in_flight_ -= pending.size;
  slot_free_.NotifyAll();

  const bool error = (reply.header.flags & vfio_user::kFlagError) != 0;
  const bool read = pending.command == Command::kDmaRead;
  // What comes back from a write differs from client to client.
  const bool fits =
      error || !read || reply.payload.size() == sizeof(vfio_user::DmaAccess) + pending.size;
  if (access != nullptr) {
    const bool done = fits && !error;
    if (done && read) Copy(access->out(), reply.payload.subspan(sizeof(vfio_user::DmaAccess)));
    access->Finish(done ? DmaStatus::kOk : DmaStatus::kFault);
  }
  return fits;
}

void DmaMessages::Expire() {
  const uint64_t now = loop_.clock().now_ns();
  uint64_t next = UINT64_MAX;
  for (Access* access : accesses_) {
    if (access->deadline() > now) {
      next = std::min(next, access->deadline());
    } else if (access->waits()) {
      for (Pending& pending : pending_) {
        if (pending.access == access) pending.access = nullptr;
      }
      access->Finish(DmaStatus::kFault);
    }
  }
  slot_free_.NotifyAll();  // Who waits there sees that it is too late.
  if (next != UINT64_MAX) expiry_.Arm(next);
}

Task<DmaStatus> DmaMessages::Transfer(Access& access, Command command, uint64_t iova, Bytes out,
                                      ConstBytes in) {
  access.set_deadline(loop_.clock().now_ns() + kReplyTimeoutNs);
  if (!expiry_.armed()) expiry_.Arm(access.deadline());
  Pending* pending = FindFree(out.size());
  while (pending == nullptr && !access.cancelled()) {
    if (loop_.clock().now_ns() >= access.deadline()) co_return DmaStatus::kFault;
    co_await slot_free_.Wait();
    pending = FindFree(out.size());
  }
  if (access.cancelled()) co_return DmaStatus::kCancelled;

  read_bytes_in_flight_ += out.size();
  Completion<DmaStatus> done(loop_);
  access.BeginWait(done, out);
  *pending = {.reserved = true,
              .command = command,
              .size = std::max(out.size(), in.size()),
              .access = &access};
  Send(*pending, iova, in);
  const DmaStatus status = co_await done;
  // It may have been cancelled after its reply came: nothing may follow.
  co_return access.cancelled() ? DmaStatus::kCancelled : status;
}

void DmaMessages::Send(Pending& pending, uint64_t iova, ConstBytes in) {
  const auto id = static_cast<uint16_t>(&pending - pending_.data());
  const vfio_user::DmaAccess access{.iova = iova, .count = pending.size};
  const Bytes payload = channel_->writer().Append(
      vfio_user::CommandHeader(id, pending.command, sizeof access + in.size()));
  Copy(payload, AsBytes(access));
  Copy(payload.subspan(sizeof access), in);
  channel_->OnAppended();
}

Task<DmaStatus> DmaMessages::ReadByMessage(uint64_t iova, Bytes out) {
  if (channel_ == nullptr) co_return DmaStatus::kCancelled;
  Access access(*this, iova, out.size());
  while (!out.empty()) {
    const size_t size = std::min<uint64_t>(out.size(), max_transfer_);
    const DmaStatus status =
        co_await Transfer(access, Command::kDmaRead, iova, out.first(size), {});
    if (status != DmaStatus::kOk) co_return status;
    iova += size;
    out = out.subspan(size);
  }
  co_return DmaStatus::kOk;
}

Task<DmaStatus> DmaMessages::WriteByMessage(uint64_t iova, ConstBytes in) {
  if (channel_ == nullptr) co_return DmaStatus::kCancelled;
  Access access(*this, iova, in.size());
  while (!in.empty()) {
    const size_t size = std::min<uint64_t>(in.size(), max_transfer_);
    const DmaStatus status =
        co_await Transfer(access, Command::kDmaWrite, iova, {}, in.first(size));
    if (status != DmaStatus::kOk) co_return status;
    iova += size;
    in = in.subspan(size);
  }
  co_return DmaStatus::kOk;
}

}  // namespace farside
