#include "harness/record/recording.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <string_view>
#include <utility>

#include "protocol/vfio_user_codec.h"

namespace farside::record {

using trace::Direction;
using trace::EventKind;
using trace::FdSpec;

namespace {

constexpr auto kInterrupt = static_cast<uint16_t>(vfio_user::ExtensionCommand::kInterrupt);

bool IsEventfd(int fd) {
  std::array<char, 64> target;
  const ssize_t size =
      readlink(fmt::format("/proc/self/fd/{}", fd).c_str(), target.data(), target.size());
  return size > 0 &&
         std::string_view(target.data(), static_cast<size_t>(size)) == "anon_inode:[eventfd]";
}

}  // namespace

FdSpec DescribeFd(int fd) {
  struct stat status {};
  if (fstat(fd, &status) == 0 && S_ISREG(status.st_mode)) {
    const int seals = fcntl(fd, F_GET_SEALS);  // Files that cannot have any give an error.
    return {.kind = FdSpec::Kind::kMemory,
            .size = static_cast<uint64_t>(status.st_size),
            .seals = seals < 0 ? 0 : static_cast<uint32_t>(seals)};
  }
  return {.kind = IsEventfd(fd) ? FdSpec::Kind::kEventfd : FdSpec::Kind::kOther};
}

Result<std::unique_ptr<Recording>> Recording::Create(const std::string& path,
                                                     const trace::TraceInfo& info,
                                                     EpollLoop& loop) {
  auto writer = trace::TraceWriter::Create(path, info);
  if (!writer) return tl::unexpected(writer.error());
  return std::unique_ptr<Recording>(new Recording(std::move(*writer), loop));
}

Recording::Recording(std::unique_ptr<trace::TraceWriter> writer, EpollLoop& loop)
    : writer_(std::move(writer)),
      loop_(loop),
      start_ns_(loop.clock().now_ns()),
      flush_(loop, [this] { Keep(writer_->Flush()); }) {}

void Recording::Keep(const Result<void>& written) {
  if (written || error_) return;
  error_ = written.error();
  loop_.Stop();
}

void Recording::Write(EventKind kind, Direction direction) {
  if (error_) return;
  event_.kind = kind;
  event_.direction = direction;
  event_.time_ns = elapsed_ns();
  Keep(writer_->Write(event_));
  event_.bytes.clear();
  event_.fds.clear();
  if (!flush_.armed()) flush_.Arm(loop_.clock().now_ns() + kFlushNs);
}

void Recording::Attach() {
  ++counts_.clients;
  Write(EventKind::kAttach, Direction::kIn);
}

void Recording::Detach() { Write(EventKind::kDetach, Direction::kIn); }

void Recording::Message(Direction direction, const vfio_user::Header& header, ConstBytes payload,
                        std::span<const UniqueFd> fds) {
  ++(header.command == kInterrupt ? counts_.interrupts : counts_.messages);
  event_.bytes.resize(sizeof header + payload.size());
  Copy(Bytes(event_.bytes).first(sizeof header), AsBytes(header));
  Copy(Bytes(event_.bytes).subspan(sizeof header), payload);
  Write(EventKind::kMessage, direction);
  if (fds.empty()) return;
  for (const UniqueFd& fd : fds) event_.fds.push_back(DescribeFd(fd.get()));
  Write(EventKind::kFds, direction);
}

void Recording::Interrupt(const vfio_user::Interrupt& interrupt) {
  Message(Direction::kOut,
          vfio_user::CommandHeader(0, vfio_user::Command{kInterrupt}, sizeof interrupt,
                                   vfio_user::kFlagNoReply),
          AsBytes(interrupt));
}

void Recording::CountDma(bool read, uint64_t size) {
  (read ? counts_.dma_read_bytes : counts_.dma_written_bytes) += size;
}

Result<void> Recording::Finish() {
  flush_.Disarm();
  if (!error_) Keep(writer_->Finish());
  return error_ ? tl::unexpected(*error_) : Result<void>();
}

}  // namespace farside::record
