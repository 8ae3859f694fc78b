#include <algorithm>
#include <utility>

#include "base/check.h"
#include "base/mutant.h"
#include "devices/scsi/bus.h"

namespace farside::scsi {

Request::Request(Bus& bus, const Nexus& nexus, ConstBytes cdb)
    : bus_(bus), nexus_(nexus), crossed_(bus.loop_) {
  if (cdb.empty()) return;
  // Initiators that always send 16 bytes are common; a real target stops asking after its own size.
  const size_t size = std::max<size_t>(CdbSize(std::to_integer<uint8_t>(cdb[0])), 1);
  if (cdb.size() < size && !MUTANT("scsi-short-cdb")) return;
  cdb_size_ = size;
  Copy(Bytes(cdb_).first(std::min(size, cdb.size())), cdb.first(std::min(size, cdb.size())));
}

void Request::TakeIn(size_t size) {
  CHECK(size <= data_in_.size());
  data_in_ = data_in_.subspan(size);
  if (aborted_) return;
  moved_ += size;
  moved_last_ += size;
  if (!data_in_.empty() || phase_ != Phase::kDataIn) return;
  SetPhase(Phase::kWorking);
  waiting_ = false;
  crossed_.NotifyAll();
}

void Request::PutOut(size_t size) {
  CHECK(size <= data_out_.size());
  data_out_ = data_out_.subspan(size);
  if (aborted_) return;
  moved_ += size;
  moved_last_ += size;
  if (!data_out_.empty() || phase_ != Phase::kDataOut) return;
  SetPhase(Phase::kWorking);
  waiting_ = false;
  crossed_.NotifyAll();
}

size_t Request::Resume(size_t size) {
  const auto before = static_cast<size_t>(std::min<uint64_t>(resumed_, size));
  resumed_ -= before;
  resumed_last_ = std::min(resumed_last_, resumed_);
  moved_last_ = before;
  return before;
}

Task<bool> Request::SendIn(ConstBytes data) {
  received_ = {};
  data_in_ = data.subspan(Resume(data.size()));
  if (aborted_ || data_in_.empty()) co_return !aborted_;
  co_return co_await Cross(Phase::kDataIn);
}

Task<bool> Request::ReceiveOut(Bytes data) {
  const size_t before = Resume(data.size());
  // Bytes that a damaged state lacks stay as they are in the buffer.
  const size_t saved = std::min(before, resumed_out_.size());
  Copy(data.subspan(before - saved, saved), ConstBytes(resumed_out_).first(saved));
  if (before != 0) resumed_out_ = {};
  received_ = data;
  data_out_ = data.subspan(before);
  if (aborted_ || data_out_.empty()) co_return !aborted_;
  co_return co_await Cross(Phase::kDataOut);
}

Task<bool> Request::Cross(Phase phase) {
  waiting_ = true;
  SetPhase(phase);
  bus_.rest_.NotifyAll();
  while (waiting_ && !aborted_) co_await crossed_.Wait();
  co_return !aborted_;
}

Bytes Request::buffer(size_t size, size_t alignment) {
  CHECK(data_in_.empty() && data_out_.empty());  // They would go from under the adapter.
  if (buffer_ == nullptr || size > buffer_size_ || alignment > buffer_alignment_) {
    CHECK(received_.empty());  // It may have to be saved.
    const size_t rounded = (std::max<size_t>(size, 1) + alignment - 1) / alignment * alignment;
    buffer_.reset(static_cast<std::byte*>(std::aligned_alloc(alignment, rounded)));
    CHECK(buffer_ != nullptr);
    buffer_size_ = rounded;
    buffer_alignment_ = alignment;
    Fill({buffer_.get(), rounded}, 0);
  }
  return {buffer_.get(), size};
}

void Request::Skip(uint64_t size) {
  CHECK(size <= resumed());
  resumed_ -= size;
}

Status Request::CheckCondition(const Sense& sense) {
  sense_ = sense;
  return Status::kCheckCondition;
}

void Request::SetPhase(Phase phase) {
  const Phase old = std::exchange(phase_, phase);
  if (old == Phase::kWorking && phase != old && !aborted_) bus_.initiator_.OnPhase(*this);
}

void Request::Abort() {
  aborted_ = true;
  crossed_.NotifyAll();
}

void Request::End(Status status) {
  stage_ = Stage::kEnded;
  status_ = status;
  received_ = {};
  buffer_.reset();
  buffer_size_ = 0;
  SetPhase(Phase::kStatus);
}

bool Request::working() const { return aborted_ || !waiting_; }

}  // namespace farside::scsi
