// What the protocol's tests share.
#pragma once

#include <sys/eventfd.h>
#include <sys/types.h>

#include <cstdint>
#include <filesystem>
#include <iterator>
#include <string_view>
#include <vector>

#include "base/bytes.h"
#include "base/fd.h"
#include "protocol/vfio_user_codec.h"

namespace farside {

using ByteVector = std::vector<std::byte>;

inline void AppendTo(ByteVector& out, std::string_view text) {
  const auto bytes = std::as_bytes(std::span(text));
  out.insert(out.end(), bytes.begin(), bytes.end());
}
inline void AppendTo(ByteVector& out, const ByteVector& bytes) {
  out.insert(out.end(), bytes.begin(), bytes.end());
}
template <typename T>
requires std::is_trivially_copyable_v<T>
void AppendTo(ByteVector& out, const T& object) {
  const auto bytes = AsBytes(object);
  out.insert(out.end(), bytes.begin(), bytes.end());
}

// The bytes of all arguments, one behind the other.
template <typename... T>
ByteVector Pack(const T&... parts) {
  ByteVector out;
  (AppendTo(out, parts), ...);
  return out;
}

// `size` bytes that count up from `first`.
inline ByteVector Counting(size_t size, uint8_t first = 0) {
  ByteVector out(size);
  for (std::byte& byte : out) byte = std::byte{first++};
  return out;
}

// A whole message.
template <typename... T>
ByteVector Message(uint16_t id, vfio_user::Command command, const T&... payload) {
  const ByteVector bytes = Pack(payload...);
  return Pack(vfio_user::CommandHeader(id, command, bytes.size()), bytes);
}

// File descriptors of this process.
inline ptrdiff_t CountOpenFds() {
  return std::distance(std::filesystem::directory_iterator("/proc/self/fd"),
                       std::filesystem::directory_iterator());
}

inline std::vector<UniqueFd> MakeFds(size_t count) {
  std::vector<UniqueFd> fds;
  for (size_t i = 0; i < count; ++i) fds.emplace_back(eventfd(0, EFD_CLOEXEC));
  return fds;
}

}  // namespace farside
