// What a wire tap lets pass of the capabilities that VERSION negotiates.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "base/bytes.h"

namespace farside::record {

// The most bytes in one message's data that a tap carries.
inline constexpr uint32_t kMaxTransfer = 1 << 20;

// A VERSION payload, of a command or of a reply, as it is passed on: without the capabilities that
// a tap does not know or cannot carry (twin_socket), and with no more fds per message and no larger
// transfers than it can. What is no JSON object passes as it is: the other end judges it.
std::vector<std::byte> FilterVersion(ConstBytes payload);

}  // namespace farside::record
