#include "fuzz/host/protocol_referee.h"

#include <sys/stat.h>

#include <algorithm>
#include <bit>

#include "base/range.h"
#include "fuzz/host/host.h"
#include "fuzz/host/oracle.h"
#include "protocol/vfio_user_extensions.h"

namespace farside::fuzz {

using vfio_user::Command;
using vfio_user::Feature;

namespace {

constexpr uint64_t kPage = 4096;
constexpr size_t kMaxKept = 4096;  // Bytes of a payload, beyond what a rule looks at.

// The structure at `at` of the payload, if that is so long.
template <typename T>
std::optional<T> Take(ConstBytes payload, size_t at = 0) {
  if (payload.size() < at + sizeof(T)) return std::nullopt;
  T out;
  Copy(AsWritableBytes(out), payload.subspan(at, sizeof out));
  return out;
}

uint64_t BitmapSize(const vfio_user::FeatureDmaLoggingReport& report) {
  return ((report.length - 1) / report.page_size / 64 + 1) * sizeof(uint64_t);
}

Feature FeatureOf(const vfio_user::DeviceFeature& head) {
  return Feature{head.flags & vfio_user::kFeatureIndexMask};
}

bool IsProbe(const vfio_user::DeviceFeature& head) {
  return (head.flags & vfio_user::kFeatureProbe) != 0;
}

bool IsSet(const vfio_user::DeviceFeature& head) {
  return !IsProbe(head) && (head.flags & vfio_user::kFeatureSet) != 0;
}

// Later commands depend on what it did.
bool ChangesState(Command command) {
  return command == Command::kDmaMap || command == Command::kDmaUnmap ||
         command == Command::kDeviceFeature || command == Command::kMigDataWrite;
}

// GET, SET or both; 0 for features that nobody has to have.
uint32_t Operations(Feature feature) {
  switch (feature) {
    case Feature::kMigration:
    case Feature::kDmaLoggingReport:
      return vfio_user::kFeatureGet;
    case Feature::kMigrationState:
      return vfio_user::kFeatureGet | vfio_user::kFeatureSet;
    case Feature::kDmaLoggingStart:
    case Feature::kDmaLoggingStop:
      return vfio_user::kFeatureSet;
  }
  return 0;
}

}  // namespace

void ProtocolReferee::Begin() {
  sent_.clear();
  known_ = true;
  negotiated_ = false;
  windows_.clear();
  migration_ = State::kRunning;
  stream_begun_ = false;
  stream_written_ = 0;
  log_.reset();
  watch_.Forget();
}

void ProtocolReferee::Lose() {
  known_ = false;
  migration_.reset();
  watch_.Forget();
}

ProtocolReferee::File ProtocolReferee::Classify(int fd) {
  struct stat status {};
  if (fstat(fd, &status) != 0) return {};
  // An eventfd lies in no file system, and has no file type.
  return {.regular = S_ISREG(status.st_mode),
          .eventfd = (status.st_mode & S_IFMT) == 0,
          .size = static_cast<uint64_t>(status.st_size)};
}

ProtocolReferee::File ProtocolReferee::Look(int fd) const {
  const auto kept = std::ranges::find(kept_, fd, &std::pair<int, File>::first);
  return kept != kept_.end() ? kept->second : Classify(fd);
}

void ProtocolReferee::OnCommand(const vfio_user::Header& header, ConstBytes payload,
                                std::span<const int> fds) {
  Sent& sent = sent_.emplace_back(Sent{.header = header, .payload_size = payload.size()});
  const bool writes = sent.command() == Command::kRegionWrite;
  const size_t kept = writes ? sizeof(vfio_user::RegionAccess) : kMaxKept;
  const ConstBytes bytes = payload.first(std::min(payload.size(), kept));
  sent.payload.assign(bytes.begin(), bytes.end());
  for (const int fd : fds) sent.files.push_back(Look(fd));
  // Memory is looked at before the server can do anything for it.
  if (sent.command() == Command::kDmaMap && !fds.empty()) {
    watch_.CheckSealed();
    watch_.Unseal();
  }
  const auto head = Take<vfio_user::DeviceFeature>(payload);
  if (sent.command() == Command::kDeviceFeature && head &&
      FeatureOf(*head) == Feature::kDmaLoggingReport) {
    const auto report = Take<vfio_user::FeatureDmaLoggingReport>(payload, sizeof *head);
    if (report) watch_.BeginReport(report->iova, report->length);
  }
}

// What is posted is done by the time of the next reply, and has none of its own.
void ProtocolReferee::OnReply(const vfio_user::Frame& reply) {
  while (!sent_.empty() && sent_.front().posted()) {
    const Ruling ruling = Judge(sent_.front());
    if (ruling.due == Due::kSuccess) Apply(sent_.front());
    if (ruling.due == Due::kEither && ChangesState(sent_.front().command())) Lose();
    sent_.pop_front();
  }
  const uint16_t id = reply.header.message_id;
  if (sent_.empty() || sent_.front().header.message_id != id) {
    Violation("answered", "the reply to message {} overtakes another one", id);
  }
  const Sent sent = std::move(sent_.front());
  sent_.pop_front();
  if (reply.header.command != sent.header.command) {
    Violation("reply-content", "a reply to command {} says that it is to {}", sent.header.command,
              reply.header.command);
  }
  const bool failed = (reply.header.flags & vfio_user::kFlagError) != 0;
  const Ruling ruling = Judge(sent);
  if (failed && ruling.due == Due::kSuccess) {
    Violation("acceptance", "command {}, which is in order, ends with error {}",
              sent.header.command, reply.header.error);
  }
  if (!failed && ruling.due == Due::kError) {
    Violation("refusal", "command {} succeeds, and it has {}", sent.header.command, ruling.why);
  }
  if (failed) return OnError(sent);
  CheckReply(sent, reply.payload);
  Apply(sent);
}

ProtocolReferee::Ruling ProtocolReferee::Judge(const Sent& sent) const {
  const bool version = sent.command() == Command::kVersion;
  if (!version && !negotiated_) return Refuse("no VERSION before it");
  if (version && negotiated_) return Refuse("a VERSION before it");
  const bool takes_fds =
      sent.command() == Command::kDmaMap || sent.command() == Command::kDeviceSetIrqs;
  if (!sent.files.empty() && !takes_fds) return Refuse("file descriptors");
  return JudgeCommand(sent);
}

ProtocolReferee::Ruling ProtocolReferee::JudgeCommand(const Sent& sent) const {
  switch (sent.header.command) {
    case static_cast<uint16_t>(Command::kVersion):
      return Open();
    case static_cast<uint16_t>(Command::kDmaMap):
      return JudgeMap(sent);
    case static_cast<uint16_t>(Command::kDmaUnmap):
      return JudgeUnmap(sent);
    case static_cast<uint16_t>(Command::kDeviceGetInfo):
      return JudgeIndex(sent, sizeof(vfio_user::DeviceInfo), 0);
    case static_cast<uint16_t>(Command::kDeviceGetRegionInfo):
      return JudgeIndex(sent, sizeof(vfio_user::RegionInfo), kRegionCount);
    case static_cast<uint16_t>(Command::kDeviceGetRegionIoFds): {
      const Ruling ruling = JudgeIndex(sent, sizeof(vfio_user::RegionIoFds), kRegionCount);
      return ruling.due == Due::kSuccess ? Open() : ruling;
    }
    case static_cast<uint16_t>(Command::kDeviceGetIrqInfo):
      return JudgeIndex(sent, sizeof(vfio_user::IrqInfo), vfio_user::kIrqIndexCount);
    case static_cast<uint16_t>(Command::kDeviceSetIrqs):
      return JudgeIrqs(sent);
    case static_cast<uint16_t>(Command::kRegionRead):
    case static_cast<uint16_t>(Command::kRegionWrite):
      return JudgeAccess(sent);
    case static_cast<uint16_t>(Command::kDeviceReset):
      return sent.payload_size == 0 ? Ruling() : Refuse("a payload");
    case static_cast<uint16_t>(Command::kRegionWriteMulti):
      return JudgeWriteMulti(sent);
    case static_cast<uint16_t>(Command::kDeviceFeature):
      return JudgeFeature(sent);
    case static_cast<uint16_t>(Command::kMigDataRead):
      return JudgeMigRead(sent);
    case static_cast<uint16_t>(Command::kMigDataWrite):
      return JudgeMigWrite(sent);
    case static_cast<uint16_t>(vfio_user::ExtensionCommand::kClockAdvance):
      return sent.payload_size == sizeof(vfio_user::ClockAdvance)
                 ? Ruling()
                 : Refuse("a payload of another size");
    default:
      return Refuse("no such number, or is a server's");
  }
}

ProtocolReferee::Ruling ProtocolReferee::JudgeMap(const Sent& sent) const {
  const auto map = Take<vfio_user::DmaMap>(sent.payload);
  if (!map || sent.payload_size != sizeof *map) return Refuse("a payload of another size");
  if (map->argsz < sizeof *map) return Refuse("an argsz below its own size");
  constexpr uint32_t kByFd = vfio_user::kDmaMapAccessMmap | vfio_user::kDmaMapAccessFile;
  constexpr uint32_t kFlags = vfio_user::kDmaMapRead | vfio_user::kDmaMapWrite | kByFd;
  if ((map->flags & ~kFlags) != 0) return Refuse("flags that there are not");
  if (map->size == 0) return Refuse("a window of no bytes");
  if (Wraps(map->iova, map->size)) return Refuse("a window that wraps");
  if (Wraps(map->offset, map->size)) return Refuse("a part of a file that wraps");
  if (sent.files.size() > 1) return Refuse("too many file descriptors");
  if ((map->flags & kByFd) != 0 && sent.files.empty()) return Refuse("no file");
  if (!sent.files.empty() && sent.files.front().regular &&
      !InRange(map->offset, map->size, sent.files.front().size)) {
    return Refuse("a window beyond the end of its file");
  }
  if (!known_) return Open();
  for (const Window& window : windows_) {
    if (Overlap(map->iova, map->size, window.iova, window.size)) {
      return Refuse("a window over another one");
    }
  }
  if (windows_.size() >= kMaxWindows) return Refuse("a window more than was negotiated");
  // How a file is reached, and parts of pages, are the server's affair.
  const bool whole_pages = ((map->iova | map->size | map->offset) & (kPage - 1)) == 0;
  const bool plain = sent.files.empty() || sent.files.front().regular;
  return whole_pages && plain && (map->flags & kByFd) == 0 ? Ruling() : Open();
}

ProtocolReferee::Ruling ProtocolReferee::JudgeUnmap(const Sent& sent) const {
  const auto unmap = Take<vfio_user::DmaUnmap>(sent.payload);
  if (!unmap || sent.payload_size != sizeof *unmap) return Refuse("a payload of another size");
  if (unmap->argsz < sizeof *unmap) return Refuse("an argsz below its own size");
  if ((unmap->flags & ~vfio_user::kDmaUnmapAll) != 0) return Refuse("flags that there are not");
  if (unmap->flags != 0) {
    return unmap->iova == 0 && unmap->size == 0 ? Ruling() : Refuse("a range and the flag for all");
  }
  if (unmap->size == 0) return Refuse("a range of no bytes");
  if (Wraps(unmap->iova, unmap->size)) return Refuse("a range that wraps");
  if (!known_) return Open();
  for (const Window& window : windows_) {
    const bool whole =
        window.iova >= unmap->iova && InRange(window.iova - unmap->iova, window.size, unmap->size);
    if (!whole && Overlap(window.iova, window.size, unmap->iova, unmap->size)) {
      return Refuse("a range that cuts a window");
    }
  }
  return {};
}

// Of a command that asks about one of `limit` indices, or of none.
ProtocolReferee::Ruling ProtocolReferee::JudgeIndex(const Sent& sent, size_t size,
                                                    uint32_t limit) const {
  if (sent.payload_size < size) return Refuse("a payload that is too short");
  if (*Take<uint32_t>(sent.payload) < size) return Refuse("an argsz below its own size");
  constexpr size_t kIndex = 8;  // In all of them.
  if (limit != 0 && *Take<uint32_t>(sent.payload, kIndex) >= limit) {
    return Refuse("an index that no PCI device has");
  }
  return {};
}

uint32_t ProtocolReferee::irq_count(uint32_t index) const {
  switch (index) {
    case static_cast<uint32_t>(vfio_user::IrqIndex::kIntx):
      return info_.intx_count;
    case static_cast<uint32_t>(vfio_user::IrqIndex::kMsi):
      return info_.msi_count;
    case static_cast<uint32_t>(vfio_user::IrqIndex::kMsix):
      return info_.msix_count;
    default:
      return index < vfio_user::kIrqIndexCount ? 1 : 0;
  }
}

ProtocolReferee::Ruling ProtocolReferee::JudgeIrqs(const Sent& sent) const {
  const auto set = Take<vfio_user::SetIrqs>(sent.payload);
  if (!set) return Refuse("a payload that is too short");
  if (set->argsz < sizeof *set) return Refuse("an argsz below its own size");
  if (set->index >= vfio_user::kIrqIndexCount ||
      !InRange(set->start, set->count, irq_count(set->index))) {
    return Refuse("vectors that the device has not");
  }
  const Ruling data = JudgeIrqData(sent, *set);
  if (data.due == Due::kError) return data;
  if ((set->flags & vfio_user::kIrqActionTrigger) != 0) return {};
  if (set->index != static_cast<uint32_t>(vfio_user::IrqIndex::kIntx)) {
    return Refuse("a mask of what can not be masked");
  }
  if ((set->flags & vfio_user::kIrqDataInband) != 0) return Refuse("a mask by message");
  return (set->flags & vfio_user::kIrqDataEventfd) != 0 ? Open() : Ruling();
}

ProtocolReferee::Ruling ProtocolReferee::JudgeIrqData(const Sent& sent,
                                                      const vfio_user::SetIrqs& set) const {
  const uint32_t data = set.flags & (vfio_user::kIrqDataMask | vfio_user::kIrqDataInband);
  const uint32_t action = set.flags & vfio_user::kIrqActionsMask;
  if (!std::has_single_bit(data) || !std::has_single_bit(action) || set.flags != (data | action)) {
    return Refuse("flags that are not one kind of data and one action");
  }
  const uint64_t bools = data == vfio_user::kIrqDataBool ? set.count : 0;
  if (sent.payload_size - sizeof set != bools) return Refuse("more or fewer booleans than vectors");
  if (sent.files.empty()) return {};
  if (data != vfio_user::kIrqDataEventfd || sent.files.size() != set.count) {
    return Refuse("more or fewer file descriptors than vectors");
  }
  if (!std::ranges::all_of(sent.files, &File::eventfd)) return Refuse("an fd that is no eventfd");
  return {};
}

bool ProtocolReferee::Holds(uint32_t region, uint64_t offset, uint64_t size) const {
  return region < kRegionCount && InRange(offset, size, info_.regions[region].size);
}

ProtocolReferee::Ruling ProtocolReferee::JudgeAccess(const Sent& sent) const {
  const auto access = Take<vfio_user::RegionAccess>(sent.payload);
  if (!access) return Refuse("a payload that is too short");
  const uint64_t data = sent.command() == Command::kRegionWrite ? access->count : 0;
  if (sent.payload_size - sizeof *access != data) return Refuse("more or fewer bytes than it says");
  if (access->count == 0) return Refuse("no bytes to read or write");
  if (access->count > vfio_user::kDefaultMaxDataXferSize) {
    return Refuse("more bytes than were negotiated");
  }
  if (access->region >= kRegionCount) return Refuse("a region that no PCI device has");
  return Holds(access->region, access->offset, access->count) ? Ruling() : Open();
}

ProtocolReferee::Ruling ProtocolReferee::JudgeWriteMulti(const Sent& sent) const {
  using vfio_user::WriteMultiEntry;
  const auto multi = Take<vfio_user::WriteMulti>(sent.payload);
  if (!multi) return Refuse("a payload that is too short");
  const size_t entries = sent.payload_size - sizeof *multi;
  if (entries % sizeof(WriteMultiEntry) != 0 || entries / sizeof(WriteMultiEntry) != multi->count) {
    return Refuse("more or fewer writes than it says");
  }
  Ruling ruling = sent.payload_size > sent.payload.size() ? Open() : Ruling();
  for (size_t at = sizeof *multi; at + sizeof(WriteMultiEntry) <= sent.payload.size();
       at += sizeof(WriteMultiEntry)) {
    const auto entry = *Take<WriteMultiEntry>(sent.payload, at);
    if (entry.count == 0 || entry.count > sizeof entry.data) {
      return Refuse("a write of no bytes, or of more than 8");
    }
    if (!Holds(entry.region, entry.offset, entry.count)) ruling = Open();
  }
  return ruling;
}

ProtocolReferee::Ruling ProtocolReferee::JudgeFeature(const Sent& sent) const {
  const auto head = Take<vfio_user::DeviceFeature>(sent.payload);
  if (!head) return Refuse("a payload that is too short");
  if (head->argsz < sizeof *head) return Refuse("an argsz below its own size");
  constexpr uint32_t kBoth = vfio_user::kFeatureGet | vfio_user::kFeatureSet;
  constexpr uint32_t kFlags = vfio_user::kFeatureIndexMask | kBoth | vfio_user::kFeatureProbe;
  const uint32_t asked = head->flags & kBoth;
  if ((head->flags & ~kFlags) != 0) return Refuse("flags that there are not");
  if (!IsProbe(*head) && !std::has_single_bit(asked)) return Refuse("neither GET nor SET, or both");
  const uint32_t possible = Operations(FeatureOf(*head));
  if (possible == 0) return Refuse("a feature that this server has not said it has");
  if ((asked & ~possible) != 0) return Refuse("a GET or SET that the feature has not");
  if (IsProbe(*head)) return {};
  switch (FeatureOf(*head)) {
    case Feature::kMigrationState:
      return IsSet(*head) ? JudgeSetState(sent) : Ruling();
    case Feature::kDmaLoggingStart:
      return JudgeLogStart(sent);
    case Feature::kDmaLoggingReport:
      return JudgeLogReport(sent);
    default:
      return {};
  }
}

// The arcs of linux/vfio.h: all between RUNNING, STOP, STOP_COPY and RESUMING lead through STOP.
// Whether what was written in RESUMING is a state is the device's affair.
ProtocolReferee::Ruling ProtocolReferee::JudgeSetState(const Sent& sent) const {
  const auto set = Take<vfio_user::FeatureMigrationState>(sent.payload, 8);
  if (!set) return Refuse("no state");
  const State target{set->state};
  if (target != State::kStop && target != State::kRunning && target != State::kStopCopy &&
      target != State::kResuming) {
    return Refuse("a state that the device has not");
  }
  if (!known_ || !migration_) return Open();
  if (*migration_ == State::kError) return Refuse("a way out of ERROR, which only a reset is");
  if (*migration_ == State::kResuming && target != State::kResuming) {
    return stream_written_ == 0 ? Refuse("no data for the state that it resumes") : Open();
  }
  return {};
}

ProtocolReferee::Ruling ProtocolReferee::JudgeLogStart(const Sent& sent) const {
  using vfio_user::DmaLoggingRange;
  constexpr size_t kStart = sizeof(vfio_user::DeviceFeature);
  constexpr uint64_t kManyPages = 1 << 20;
  const auto start = Take<vfio_user::FeatureDmaLoggingStart>(sent.payload, kStart);
  if (!start) return Refuse("no page size");
  constexpr size_t kRanges = kStart + sizeof *start;
  if (sent.payload_size - kRanges != uint64_t{start->num_ranges} * sizeof(DmaLoggingRange)) {
    return Refuse("more or fewer ranges than it says");
  }
  if (!std::has_single_bit(start->page_size)) return Refuse("a page size that is no power of two");
  if (sent.payload_size > sent.payload.size()) return Open();
  std::vector<DmaLoggingRange> ranges;
  uint64_t pages = 0;
  for (size_t i = 0; i < start->num_ranges; ++i) {
    const auto range = *Take<DmaLoggingRange>(sent.payload, kRanges + i * sizeof(DmaLoggingRange));
    if (range.length == 0) return Refuse("a range of no bytes");
    if (Wraps(range.iova, range.length)) return Refuse("a range that wraps");
    for (const auto& other : ranges) {
      if (Overlap(range.iova, range.length, other.iova, other.length)) {
        return Refuse("ranges that overlap");
      }
    }
    ranges.push_back(range);
    pages += std::min(range.length / start->page_size, kManyPages);
  }
  if (!known_) return Open();
  if (log_) return Refuse("a log that is on already");
  return start->page_size >= kPage && pages < kManyPages ? Ruling() : Open();
}

// Where the client left no room for the bitmap it is told how much it takes.
ProtocolReferee::Ruling ProtocolReferee::JudgeLogReport(const Sent& sent) const {
  const auto head = *Take<vfio_user::DeviceFeature>(sent.payload);
  const auto report = Take<vfio_user::FeatureDmaLoggingReport>(sent.payload, sizeof head);
  if (!report) return Refuse("no range");
  if (!std::has_single_bit(report->page_size) || report->page_size < kPage || report->length == 0) {
    return head.argsz < sizeof head + sizeof *report ? Open() : Refuse("no page size, or no bytes");
  }
  const uint64_t bitmap = BitmapSize(*report);
  if (!known_ || head.argsz < sizeof head + sizeof *report + bitmap) return Open();
  if (bitmap > vfio_user::kDefaultMaxDataXferSize / 2) return Open();
  if (!log_) return Refuse("no log that is on");
  const bool logged = std::ranges::any_of(log_->ranges, [&](const auto& range) {
    return report->iova >= range.iova &&
           InRange(report->iova - range.iova, report->length, range.length);
  });
  if (!logged) return Refuse("a range that is not logged");
  return report->page_size >= log_->page_size ? Ruling() : Open();
}

ProtocolReferee::Ruling ProtocolReferee::JudgeMigRead(const Sent& sent) const {
  const auto read = Take<vfio_user::MigData>(sent.payload);
  if (!read) return Refuse("a payload that is too short");
  if (read->argsz < sizeof *read) return Refuse("an argsz below its own size");
  if (read->size > vfio_user::kDefaultMaxDataXferSize) {
    return Refuse("more bytes than were negotiated");
  }
  if (!known_ || !migration_) return Open();
  return *migration_ == State::kStopCopy ? Ruling() : Refuse("a state other than STOP_COPY");
}

ProtocolReferee::Ruling ProtocolReferee::JudgeMigWrite(const Sent& sent) const {
  constexpr uint64_t kModest = 1 << 20;  // Bytes that no server has too many of.
  const auto write = Take<vfio_user::MigData>(sent.payload);
  if (!write) return Refuse("a payload that is too short");
  if (sent.payload_size - sizeof *write != write->size) {
    return Refuse("more or fewer bytes than it says");
  }
  if (!known_ || !migration_) return Open();
  if (*migration_ != State::kResuming) return Refuse("a state other than RESUMING");
  const bool open = write->argsz < sizeof *write || stream_written_ + write->size > kModest;
  return open ? Open() : Ruling();
}

void ProtocolReferee::OnError(const Sent& sent) {
  const auto head = Take<vfio_user::DeviceFeature>(sent.payload);
  const bool sets = sent.command() == Command::kDeviceFeature && head && IsSet(*head) &&
                    FeatureOf(*head) == Feature::kMigrationState;
  // Where a way that may fail has led is up to the server.
  if (sets && Judge(sent).due == Due::kEither) migration_.reset();
  if (sets && migration_ == State::kResuming) migration_.reset();
}

void ProtocolReferee::Apply(const Sent& sent) {
  switch (sent.command()) {
    case Command::kVersion:
      negotiated_ = true;
      return;
    case Command::kDmaMap: {
      const auto map = *Take<vfio_user::DmaMap>(sent.payload);
      windows_.push_back({map.iova, map.size, !sent.files.empty()});
      return CountWindows();
    }
    case Command::kDmaUnmap: {
      const auto unmap = *Take<vfio_user::DmaUnmap>(sent.payload);
      std::erase_if(windows_, [&](const Window& window) {
        return unmap.flags != 0 || Overlap(window.iova, window.size, unmap.iova, unmap.size);
      });
      return CountWindows();
    }
    case Command::kDeviceReset:
      migration_ = State::kRunning;
      return;
    case Command::kDeviceFeature:
      return ApplyFeature(sent);
    case Command::kMigDataRead:
      stream_begun_ = stream_begun_ || Take<vfio_user::MigData>(sent.payload)->size != 0;
      return;
    case Command::kMigDataWrite:
      stream_written_ += sent.payload_size - sizeof(vfio_user::MigData);
      return;
    default:
      return;
  }
}

// What is seen in memory can be told from what the guest does only if each window by a file shows
// memory where the guest has it.
void ProtocolReferee::CountWindows() {
  watch_.EndLog();
  // A window that is on its way may be there already.
  const bool may_be_seen = std::ranges::any_of(windows_, &Window::by_fd) ||
                           std::ranges::count(sent_, Command::kDmaMap, &Sent::command) != 0;
  if (known_ && !may_be_seen) watch_.Seal();
}

void ProtocolReferee::ApplyFeature(const Sent& sent) {
  const auto head = *Take<vfio_user::DeviceFeature>(sent.payload);
  if (!IsSet(head)) return;
  if (FeatureOf(head) == Feature::kMigrationState) {
    const State to{Take<vfio_user::FeatureMigrationState>(sent.payload, sizeof head)->state};
    if (migration_ != to) stream_begun_ = false;
    if (migration_ != to) stream_written_ = 0;
    migration_ = to;
    return;
  }
  log_.reset();
  watch_.EndLog();
  if (FeatureOf(head) == Feature::kDmaLoggingStop) return;
  const auto start = *Take<vfio_user::FeatureDmaLoggingStart>(sent.payload, sizeof head);
  log_ = {.page_size = start.page_size};
  for (size_t at = sizeof head + sizeof start;; at += sizeof(vfio_user::DmaLoggingRange)) {
    const auto range = Take<vfio_user::DmaLoggingRange>(sent.payload, at);
    if (!range) break;
    log_->ranges.push_back(*range);
  }
  const bool in_place = std::ranges::all_of(windows_, [](const Window& window) {
    return window.by_fd && (window.iova == Host::kBase || window.iova == Host::kHighBase);
  });
  if (!known_ || !in_place) return;
  for (const auto& range : log_->ranges) watch_.BeginLog(range.iova, range.length);
}

void ProtocolReferee::CheckReply(const Sent& sent, ConstBytes reply) {
  switch (sent.command()) {
    case Command::kDeviceGetInfo:
    case Command::kDeviceGetRegionInfo:
    case Command::kDeviceGetIrqInfo:
      return CheckInfo(sent, reply);
    case Command::kRegionRead:
    case Command::kRegionWrite:
      return CheckAccess(sent, reply);
    case Command::kRegionWriteMulti:
      if (reply.size() != sizeof(vfio_user::WriteMulti) ||
          *Take<uint64_t>(reply) != *Take<uint64_t>(sent.payload)) {
        Violation("reply-content", "REGION_WRITE_MULTI is said to have done less or more");
      }
      return;
    case Command::kDeviceFeature:
      return CheckFeature(sent, reply);
    case Command::kMigDataRead:
      return CheckMigRead(sent, reply);
    default:
      return;
  }
}

void ProtocolReferee::CheckInfo(const Sent& sent, ConstBytes reply) const {
  const auto index = *Take<uint32_t>(sent.payload, 8);
  bool right = true;
  if (sent.command() == Command::kDeviceGetInfo) {
    const auto info = Take<vfio_user::DeviceInfo>(reply);
    right = info && info->num_regions >= kRegionCount &&
            info->num_irqs >= vfio_user::kIrqIndexCount &&
            (info->flags & vfio_user::kDeviceFlagPci) != 0;
  } else if (sent.command() == Command::kDeviceGetRegionInfo) {
    const auto info = Take<vfio_user::RegionInfo>(reply);
    right = info && info->index == index && info->size == info_.regions[index].size;
  } else {
    const auto info = Take<vfio_user::IrqInfo>(reply);
    right = info && info->index == index && info->count == irq_count(index);
  }
  if (!right) {
    Violation("reply-content", "the reply to command {} is not what the device has",
              sent.header.command);
  }
}

// Outside of a region there are only ones.
void ProtocolReferee::CheckAccess(const Sent& sent, ConstBytes reply) const {
  const auto access = *Take<vfio_user::RegionAccess>(sent.payload);
  const size_t data = sent.command() == Command::kRegionRead ? access.count : 0;
  if (reply.size() != sizeof access + data ||
      !std::ranges::equal(reply.first(sizeof access), AsBytes(access))) {
    Violation("reply-content", "an access to region {} has the reply to another one",
              access.region);
  }
  if (Holds(access.region, access.offset, access.count)) return;
  if (!std::ranges::all_of(reply.subspan(sizeof access),
                           [](std::byte byte) { return byte == std::byte{0xff}; })) {
    Violation("reply-content", "{} bytes at {:#x} of region {}, where nothing is, are not all ones",
              access.count, access.offset, access.region);
  }
}

void ProtocolReferee::CheckFeature(const Sent& sent, ConstBytes reply) {
  const auto asked = *Take<vfio_user::DeviceFeature>(sent.payload);
  const auto head = Take<vfio_user::DeviceFeature>(reply);
  if (!head || head->flags != asked.flags) {
    Violation("reply-content", "a DEVICE_FEATURE has the reply to another one");
  }
  if (IsProbe(asked)) return;
  if (FeatureOf(asked) == Feature::kMigrationState) {
    CheckState(sent, reply);
  } else if (FeatureOf(asked) == Feature::kDmaLoggingReport) {
    const auto report = *Take<vfio_user::FeatureDmaLoggingReport>(sent.payload, sizeof asked);
    const size_t before = sizeof asked + sizeof report;
    if (reply.size() == sizeof asked) return;
    if (reply.size() != before + BitmapSize(report)) {
      Violation("reply-content", "a report of the dirty log has a bitmap of another size");
    }
    watch_.EndReport(report.page_size, reply.subspan(before));
  }
}

void ProtocolReferee::CheckState(const Sent& sent, ConstBytes reply) {
  const auto asked = *Take<vfio_user::DeviceFeature>(sent.payload);
  const auto state = Take<vfio_user::FeatureMigrationState>(reply, sizeof asked);
  const auto target = Take<vfio_user::FeatureMigrationState>(sent.payload, sizeof asked);
  // Where the client left no room it is told how much it takes.
  if (!state && !IsSet(asked) && asked.argsz < sizeof asked + sizeof *state) return;
  const std::optional<State> due = IsSet(asked) ? State{target->state} : migration_;
  if (!state || (due && State{state->state} != *due)) {
    Violation("reply-content", "the reply names another migration state than the device has");
  }
  if (!IsSet(asked)) migration_ = State{state->state};
}

void ProtocolReferee::CheckMigRead(const Sent& sent, ConstBytes reply) {
  const auto asked = *Take<vfio_user::MigData>(sent.payload);
  const auto head = Take<vfio_user::MigData>(reply);
  if (!head || head->size > asked.size || reply.size() != sizeof *head + head->size) {
    Violation("reply-content", "MIG_DATA_READ of {} bytes has a reply of {}", asked.size,
              reply.size());
  }
  if (known_ && migration_ && !stream_begun_ && asked.size != 0 && head->size == 0) {
    Violation("reply-content", "the device's state is empty");
  }
}

}  // namespace farside::fuzz
