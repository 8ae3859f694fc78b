#include "protocol/trace/event.h"

#include <cstring>

#include "base/check.h"

namespace farside::trace {

vfio_user::Header Event::header() const {
  CHECK(bytes.size() >= sizeof(vfio_user::Header));
  vfio_user::Header header;
  std::memcpy(&header, bytes.data(), sizeof header);
  return header;
}

}  // namespace farside::trace
