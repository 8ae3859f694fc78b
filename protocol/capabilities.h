// The capabilities that VERSION negotiates: the JSON of vfio-user's section "Version Data Format".
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "base/error.h"
#include "protocol/vfio_user.h"

namespace farside::vfio_user {

// What one end says of itself; absent where it said nothing.
struct Capabilities {
  struct Migration {
    uint64_t pgsize = 4096;
    std::optional<uint64_t> max_bitmap_size;
  };
  struct TwinSocket {
    bool supported = false;
    std::optional<uint32_t> fd_index;  // In replies.
  };

  // What only Farside's own ends speak (protocol/vfio_user_extensions.h).
  struct Farside {
    bool interrupt = false;
    bool clock = false;
    // The device's id: the one that the client expects, and the server's own.
    std::optional<std::string> device;
  };

  std::optional<uint64_t> max_msg_fds;
  std::optional<uint64_t> max_data_xfer_size;
  std::optional<uint64_t> max_dma_maps;
  std::optional<uint64_t> pgsizes;
  std::optional<bool> write_multiple;
  std::optional<Migration> migration;
  std::optional<TwinSocket> twin_socket;
  std::optional<Farside> farside;
};

// Reads `{"capabilities": {...}}`; an empty text means no capability at all. Unknown keys are
// skipped. Errors name the key.
Result<Capabilities> ParseCapabilities(std::string_view json);

// As compact as JSON can be: QEMU refuses a reply longer than its own VERSION.
std::string FormatCapabilities(const Capabilities& capabilities);

// What a server that can do `own` answers to a client that offered `theirs`: nothing the client did
// not offer, and never more than it offered.
Capabilities Negotiate(const Capabilities& own, const Capabilities& theirs);

}  // namespace farside::vfio_user
