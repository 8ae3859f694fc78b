// Admin commands: NVM Express 1.4, section 5.
#include <algorithm>
#include <array>
#include <vector>

#include "devices/nvme/controller.h"
#include "devices/nvme/identify.h"

namespace farside::nvme {
namespace {

Outcome Failed(Status status) { return {.status = status}; }

// CDW10 and CDW11 of Create I/O Submission and Completion Queue.
struct CreateFields {
  explicit CreateFields(const Sqe& sqe)
      : id(sqe.cdw10 & 0xffff),
        size((sqe.cdw10 >> 16) + 1),
        contiguous((sqe.cdw11 & 1) != 0),
        upper(sqe.cdw11 >> 16) {}

  uint32_t id;
  uint32_t size;  // Entries: 0's based in the command.
  bool contiguous;
  uint32_t upper;  // CQID, or the interrupt vector.
};

// Get Log Page's CDW10 to CDW13.
struct LogFields {
  explicit LogFields(const Sqe& sqe)
      : log(LogId{static_cast<uint8_t>(sqe.cdw10)}),
        retain_event((sqe.cdw10 >> 15 & 1) != 0),
        size((uint64_t{sqe.cdw10 >> 16 | sqe.cdw11 << 16} + 1) * 4),
        offset(sqe.cdw12 | uint64_t{sqe.cdw13} << 32) {}

  LogId log;
  bool retain_event;
  uint64_t size;  // In bytes: double words, 0's based, in the command.
  uint64_t offset;
};

constexpr uint32_t kNotAborted = 1;  // DW0 of an Abort's completion.
constexpr uint32_t kSelectMask = 7 << 8;
constexpr uint32_t kSelectCapabilities = 3 << 8;

}  // namespace

Task<Outcome> Controller::ExecuteAdmin(Command& command) {
  const Sqe& sqe = command.sqe;
  switch (AdminOpcode{sqe.opcode}) {
    case AdminOpcode::kDeleteSq:
      co_return co_await DeleteSq(command);
    case AdminOpcode::kCreateSq:
      co_return CreateSq(sqe);
    case AdminOpcode::kGetLogPage:
      co_return co_await GetLogPage(command);
    case AdminOpcode::kDeleteCq:
      co_return DeleteCq(sqe);
    case AdminOpcode::kCreateCq:
      co_return CreateCq(sqe);
    case AdminOpcode::kIdentify:
      co_return co_await Identify(command);
    case AdminOpcode::kAbort:
      co_return Abort(sqe);
    case AdminOpcode::kSetFeatures:
      co_return co_await SetFeatures(command);
    case AdminOpcode::kGetFeatures:
      co_return co_await GetFeatures(command);
    case AdminOpcode::kAsyncEventRequest:
      co_return Failed(Status::kEventRequestLimitExceeded);
  }
  co_return Failed(Status::kInvalidOpcode);
}

// Section 5.3.
Outcome Controller::CreateCq(const Sqe& sqe) {
  const CreateFields fields(sqe);
  if (fields.id == 0 || fields.id > features_.completion_queues() || queues_.HasCq(fields.id)) {
    return Failed(Status::kInvalidQueueId);
  }
  if (fields.size < 2 || fields.size > kMaxQueueEntries || CcCqeShift(cc()) != kCqeShift) {
    return Failed(Status::kInvalidQueueSize);
  }
  if (!fields.contiguous) return Failed(Status::kInvalidField);  // CAP.CQR.
  if (sqe.prp1 % memory().page_size != 0) return Failed(Status::kInvalidPrpOffset);
  if (fields.upper >= vector_limit()) return Failed(Status::kInvalidInterruptVector);
  queues_.cq[fields.id] = {.base = sqe.prp1,
                           .size = fields.size,
                           .interrupts = (sqe.cdw11 >> 1 & 1) != 0,
                           .vector = static_cast<uint16_t>(fields.upper)};
  queues_.io_created = true;
  return {};
}

// Section 5.4.
Outcome Controller::CreateSq(const Sqe& sqe) {
  const CreateFields fields(sqe);
  if (fields.id == 0 || fields.id > features_.submission_queues() || queues_.HasSq(fields.id)) {
    return Failed(Status::kInvalidQueueId);
  }
  if (fields.upper == 0 || fields.upper > features_.completion_queues()) {
    return Failed(Status::kInvalidQueueId);
  }
  if (!queues_.HasCq(fields.upper)) return Failed(Status::kCompletionQueueInvalid);
  if (fields.size < 2 || fields.size > kMaxQueueEntries || CcSqeShift(cc()) != kSqeShift) {
    return Failed(Status::kInvalidQueueSize);
  }
  if (!fields.contiguous) return Failed(Status::kInvalidField);
  if (sqe.prp1 % memory().page_size != 0) return Failed(Status::kInvalidPrpOffset);
  queues_.sq[fields.id] = {
      .base = sqe.prp1, .size = fields.size, .cqid = static_cast<uint16_t>(fields.upper)};
  return {};
}

// Section 5.5.
Outcome Controller::DeleteCq(const Sqe& sqe) {
  const uint32_t id = sqe.cdw10 & 0xffff;
  if (id == 0 || !queues_.HasCq(id)) return Failed(Status::kInvalidQueueId);
  if (queues_.CqInUse(id)) return Failed(Status::kInvalidQueueDeletion);
  queues_.cq[id] = {};
  UpdateIntx();
  return {};
}

// Section 5.6. Commands of the queue that were fetched complete first, so that the host may reuse
// their memory; those that were not are gone.
Task<Outcome> Controller::DeleteSq(Command& command) {
  const uint32_t id = command.sqe.cdw10 & 0xffff;
  if (id == 0 || !queues_.HasSq(id) || queues_.sq[id].deleting) {
    co_return Failed(Status::kInvalidQueueId);
  }
  SubmissionQueue& sq = queues_.sq[id];
  sq.deleting = true;
  while (!command.cancelled && (sq.executing != 0 || sq.serving)) co_await changed_.Wait();
  if (command.cancelled) co_return Outcome{};
  if (sq.starved) --starved_queues_;
  sq = {};
  KickAll();  // Others may have waited for places that were promised to it.
  co_return Outcome{};
}

// Section 5.15.
Task<Outcome> Controller::Identify(Command& command) {
  const uint32_t nsid = command.sqe.nsid;
  std::vector<std::byte> page;
  switch (Cns{static_cast<uint8_t>(command.sqe.cdw10)}) {
    case Cns::kNamespace:
      if (nsid != kNamespaceId) co_return Failed(Status::kInvalidNamespace);
      page = IdentifyNamespace(namespace_);
      break;
    case Cns::kController:
      page = IdentifyController(options_.serial, options_.mdts);
      break;
    case Cns::kActiveNamespaces:
      if (nsid >= kAllNamespaces - 1) co_return Failed(Status::kInvalidNamespace);
      page = IdentifyActiveNamespaces(nsid);
      break;
    case Cns::kNamespaceDescriptors:
      if (nsid != kNamespaceId) co_return Failed(Status::kInvalidNamespace);
      page = IdentifyNamespaceDescriptors(options_.serial);
      break;
    default:
      co_return Failed(Status::kInvalidField);
  }
  const Status status = co_await SendData(memory(), command, page);
  co_return Outcome{.status = status};
}

// Section 5.14. What lies behind a log's end reads as zeroes.
Task<Outcome> Controller::GetLogPage(Command& command) {
  const LogFields fields(command.sqe);
  const auto log = health_.LogPage(fields.log, features_.critical_warning());
  if (!log) co_return Failed(Status::kInvalidLogPage);
  const uint32_t nsid = command.sqe.nsid;
  if (fields.log == LogId::kSmart && nsid != 0 && nsid != kNamespaceId && nsid != kAllNamespaces) {
    co_return Failed(Status::kInvalidNamespace);
  }
  if (fields.offset % 4 != 0 || fields.offset > log->size() ||
      fields.size > memory().max_transfer) {
    co_return Failed(Status::kInvalidField);
  }
  std::vector<std::byte> data(fields.size);
  const auto part = ConstBytes(*log).subspan(fields.offset);
  const size_t size = std::min(part.size(), data.size());
  Copy(Bytes(data).first(size), part.first(size));
  const Status status = co_await SendData(memory(), command, data);
  if (status == Status::kSuccess && !command.cancelled && !fields.retain_event) {
    events_.OnLogRead(fields.log);
    DeliverEvents();
  }
  co_return Outcome{.status = status};
}

// Section 5.21.
Task<Outcome> Controller::SetFeatures(Command& command) {
  const Sqe& sqe = command.sqe;
  const Outcome outcome = features_.Set(sqe, queues_.io_created);
  if (outcome.status != Status::kSuccess) co_return outcome;
  switch (FeatureId{static_cast<uint8_t>(sqe.cdw10)}) {
    case FeatureId::kTimestamp: {
      std::array<std::byte, Features::kTimestampSize> data;
      const Status status = co_await ReceiveData(memory(), command, data);
      if (status == Status::kSuccess && !command.cancelled) {
        features_.SetTimestamp(data, clock().now_ns());
      }
      co_return Outcome{.status = status};
    }
    case FeatureId::kVolatileWriteCache: {
      // What the cache held becomes stable before it is said to be off.
      if (features_.write_cache()) co_return outcome;
      const Status status = co_await namespace_.Flush();
      co_return Outcome{.status = status};
    }
    case FeatureId::kTemperatureThreshold:
    case FeatureId::kAsyncEventConfiguration:
      if (features_.critical_warning() != 0 && features_.warning_enabled()) {
        RaiseEvent(Event::kTemperatureThreshold);
      }
      co_return outcome;
    default:
      co_return outcome;
  }
}

// Section 5.9.
Task<Outcome> Controller::GetFeatures(Command& command) {
  const Sqe& sqe = command.sqe;
  const Outcome outcome = features_.Get(sqe);
  const uint32_t select = sqe.cdw10 & kSelectMask;
  if (outcome.status != Status::kSuccess || select == kSelectCapabilities ||
      FeatureId{static_cast<uint8_t>(sqe.cdw10)} != FeatureId::kTimestamp) {
    co_return outcome;
  }
  std::array<std::byte, Features::kTimestampSize> data{};
  if (select == 0) data = features_.Timestamp(clock().now_ns());
  const Status status = co_await SendData(memory(), command, data);
  co_return Outcome{.status = status};
}

// Section 5.1. What waits for the block device cannot be stopped; an event request can.
Outcome Controller::Abort(const Sqe& sqe) {
  const uint32_t sqid = sqe.cdw10 & 0xffff;
  const auto cid = static_cast<uint16_t>(sqe.cdw10 >> 16);
  const auto request = std::ranges::find(events_.requests, cid, &EventRequest::cid);
  if (sqid != 0 || request == events_.requests.end() || queues_.cq[0].available() == 0 ||
      admin_commands_.available() == 0) {
    return {.dw0 = kNotAborted};
  }
  ++queues_.cq[0].reserved;
  admin_commands_.Reserve(1);
  Command& command = admin_commands_.Take(++commands_taken_);
  command.sqid = 0;
  command.sequence = request->sequence;
  command.sqe = {.opcode = static_cast<uint8_t>(AdminOpcode::kAsyncEventRequest), .cid = cid};
  ++queues_.sq[0].executing;
  events_.requests.erase(request);
  Decide(command, {.status = Status::kAbortRequested});
  scope_.Spawn(PostEvent(command));
  return {};
}

}  // namespace farside::nvme
