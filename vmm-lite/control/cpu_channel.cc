#include "vmm-lite/control/cpu_channel.h"

#include <sys/socket.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <string>

#include "base/options.h"

namespace farside::vmm {
namespace {

using nlohmann::json;

// Takes what came with a message; whatever its number, each descriptor has an owner afterwards.
std::vector<UniqueFd> TakeFds(msghdr& header) {
  std::vector<UniqueFd> fds;
  for (cmsghdr* part = CMSG_FIRSTHDR(&header); part != nullptr; part = CMSG_NXTHDR(&header, part)) {
    if (part->cmsg_level != SOL_SOCKET || part->cmsg_type != SCM_RIGHTS) continue;
    const size_t count = (part->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (size_t i = 0; i < count; ++i) {
      int fd;
      std::memcpy(&fd, CMSG_DATA(part) + i * sizeof fd, sizeof fd);
      fds.emplace_back(fd);
    }
  }
  return fds;
}

struct alignas(cmsghdr) Ancillary {
  std::array<char, CMSG_SPACE(CpuChannel::kMaxFds * sizeof(int))> bytes{};
};

}  // namespace

Result<std::pair<UniqueFd, UniqueFd>> CpuChannel::MakePair() {
  int fds[2];
  if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds) != 0) {
    return FailWith(errno, "cannot make a socket pair: {}", ErrnoText(errno));
  }
  return std::pair(UniqueFd(fds[0]), UniqueFd(fds[1]));
}

Result<void> CpuChannel::Send(const json& body, std::span<const int> fds) {
  std::string text = body.dump(-1, ' ', false, json::error_handler_t::replace);
  if (text.size() > kMaxBytes || fds.size() > kMaxFds) {
    return FailWith(EMSGSIZE, "a message of {} bytes and {} descriptors: {} and {} are possible",
                    text.size(), fds.size(), kMaxBytes, kMaxFds);
  }
  iovec data{text.data(), text.size()};
  msghdr header{};
  header.msg_iov = &data;
  header.msg_iovlen = 1;
  Ancillary ancillary;
  if (!fds.empty()) {
    header.msg_control = ancillary.bytes.data();
    header.msg_controllen = CMSG_SPACE(fds.size_bytes());
    cmsghdr* const part = CMSG_FIRSTHDR(&header);
    part->cmsg_level = SOL_SOCKET;
    part->cmsg_type = SCM_RIGHTS;
    part->cmsg_len = CMSG_LEN(fds.size_bytes());
    std::memcpy(CMSG_DATA(part), fds.data(), fds.size_bytes());
  }
  ssize_t sent;
  do {
    sent = sendmsg(socket_.get(), &header, MSG_NOSIGNAL | MSG_DONTWAIT);
  } while (sent < 0 && errno == EINTR);
  if (sent >= 0) return {};
  return FailWith(errno, "cannot send to the other process of vmm-lite: {}", ErrnoText(errno));
}

Result<std::optional<Message>> CpuChannel::Receive() {
  std::string text(kMaxBytes, '\0');
  iovec data{text.data(), text.size()};
  Ancillary ancillary;
  msghdr header{};
  header.msg_iov = &data;
  header.msg_iovlen = 1;
  header.msg_control = ancillary.bytes.data();
  header.msg_controllen = ancillary.bytes.size();
  ssize_t got;
  do {
    got = recvmsg(socket_.get(), &header, MSG_CMSG_CLOEXEC);
  } while (got < 0 && errno == EINTR);
  if (got == 0 || (got < 0 && errno == ECONNRESET)) return std::nullopt;
  if (got < 0) {
    return FailWith(errno, "cannot receive from the other process of vmm-lite: {}",
                    ErrnoText(errno));
  }
  Message message{.body = {}, .fds = TakeFds(header)};
  if ((header.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) != 0) {
    return FailWith(EPROTO, "a message has over {} bytes or {} descriptors", kMaxBytes, kMaxFds);
  }
  text.resize(static_cast<size_t>(got));
  auto body = ParseJson(text);
  if (!body) return FailWith(EPROTO, "a message is {}", body.error().message);
  if (!body->is_object()) return FailWith(EPROTO, "a message is no JSON object: {}", Quote(text));
  message.body = std::move(*body);
  return message;
}

}  // namespace farside::vmm
