// ProtocolReferee: knows the vfio-user specification and judges a server from the client's end of
// the wire. It shares nothing with the server, so the two do not agree on the same mistake.
#pragma once

#include <cstdint>
#include <deque>
#include <optional>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include "base/bytes.h"
#include "devices/core/device.h"
#include "fuzz/host/memory_watch.h"
#include "protocol/vfio_user_codec.h"

namespace farside::fuzz {

// Oracles: "refusal" (a command that has to be refused succeeds), "acceptance" (one that has to
// succeed is refused), "reply-content" (a reply of another size or content than is due), "answered"
// (a reply overtakes another one); and those of MemoryWatch.
//
// It follows one connection, whose replies come in the order of their commands.
class ProtocolReferee {
 public:
  // DMA windows that the client's VERSION allows.
  static constexpr size_t kMaxWindows = 6;
  // No header may claim more; servers may draw the line before.
  static constexpr uint64_t kMaxMessage = vfio_user::kDefaultMaxDataXferSize + (64 << 10);

  // Of a server of the device with this `info`; both it and `memory` outlive this.
  ProtocolReferee(const DeviceInfo& info, const GuestMemory& memory)
      : info_(info), watch_(memory) {}

  // A file that the client keeps: its kind and its size stay as they are.
  void Keep(int fd) { kept_.emplace_back(fd, Classify(fd)); }
  // A new connection.
  void Begin();
  // Nothing that is known of the connection is certain any more.
  void Lose();
  // The client sends a whole command, and has a reply to one.
  void OnCommand(const vfio_user::Header& header, ConstBytes payload, std::span<const int> fds);
  void OnReply(const vfio_user::Frame& reply);
  // The client itself changes memory.
  void OnGuestWrite(uint64_t iova, ConstBytes data) { watch_.OnGuestWrite(iova, data); }
  // The client has all its replies, and is about to go.
  void OnEnd() { watch_.CheckSealed(); }

 private:
  struct Window {
    uint64_t iova = 0;
    uint64_t size = 0;
    bool by_fd = false;
  };
  // What came with a command.
  struct File {
    bool regular = false;
    bool eventfd = false;
    uint64_t size = 0;
  };
  struct Sent {
    vfio_user::Header header;
    std::vector<std::byte> payload = {};  // Without the bytes that REGION_WRITE writes.
    size_t payload_size = 0;              // With them.
    std::vector<File> files = {};

    vfio_user::Command command() const { return vfio_user::Command{header.command}; }
    bool posted() const { return (header.flags & vfio_user::kFlagNoReply) != 0; }
  };
  enum class Due : uint8_t { kSuccess, kError, kEither };
  struct Ruling {
    Due due = Due::kSuccess;
    std::string_view why = {};  // What is wrong with the command.
  };
  struct Log {
    uint64_t page_size = 0;
    std::vector<vfio_user::DmaLoggingRange> ranges = {};
  };
  using State = vfio_user::MigrationState;

  static Ruling Refuse(std::string_view why) { return {Due::kError, why}; }
  static Ruling Open() { return {Due::kEither}; }
  static File Classify(int fd);
  File Look(int fd) const;

  // What a command has to end with, by all that was done before it.
  Ruling Judge(const Sent& sent) const;
  Ruling JudgeCommand(const Sent& sent) const;
  Ruling JudgeMap(const Sent& sent) const;
  Ruling JudgeUnmap(const Sent& sent) const;
  Ruling JudgeIndex(const Sent& sent, size_t size, uint32_t limit) const;
  Ruling JudgeIrqs(const Sent& sent) const;
  Ruling JudgeIrqData(const Sent& sent, const vfio_user::SetIrqs& set) const;
  Ruling JudgeAccess(const Sent& sent) const;
  Ruling JudgeWriteMulti(const Sent& sent) const;
  Ruling JudgeFeature(const Sent& sent) const;
  Ruling JudgeSetState(const Sent& sent) const;
  Ruling JudgeLogStart(const Sent& sent) const;
  Ruling JudgeLogReport(const Sent& sent) const;
  Ruling JudgeMigRead(const Sent& sent) const;
  Ruling JudgeMigWrite(const Sent& sent) const;

  // What follows from its success, and from an error that was not due.
  void Apply(const Sent& sent);
  void ApplyFeature(const Sent& sent);
  void OnError(const Sent& sent);
  void CountWindows();

  void CheckReply(const Sent& sent, ConstBytes reply);
  void CheckInfo(const Sent& sent, ConstBytes reply) const;
  void CheckAccess(const Sent& sent, ConstBytes reply) const;
  void CheckFeature(const Sent& sent, ConstBytes reply);
  void CheckState(const Sent& sent, ConstBytes reply);
  void CheckMigRead(const Sent& sent, ConstBytes reply);

  uint32_t irq_count(uint32_t index) const;
  bool Holds(uint32_t region, uint64_t offset, uint64_t size) const;

  const DeviceInfo& info_;
  std::vector<std::pair<int, File>> kept_;  // A look at a file is a system call.
  std::deque<Sent> sent_;                   // Without a reply yet.
  bool known_ = true;
  bool negotiated_ = false;
  std::vector<Window> windows_;
  std::optional<State> migration_ = State::kRunning;  // Nothing where it is not known.
  bool stream_begun_ = false;                         // Of STOP_COPY.
  uint64_t stream_written_ = 0;                       // Bytes, of RESUMING.
  std::optional<Log> log_;
  MemoryWatch watch_;
};

}  // namespace farside::fuzz
