#include "protocol/capabilities.h"

#include <algorithm>
#include <nlohmann/json.hpp>

namespace farside::vfio_user {
namespace {

using Json = nlohmann::json;

constexpr int kMaxDepth = 8;

// Reads `key` if it is there. False if it has another type.
bool ReadNumber(const Json& object, const char* key, std::optional<uint64_t>* out) {
  const auto found = object.find(key);
  if (found == object.end()) return true;
  if (!found->is_number_unsigned()) return false;
  *out = found->get<uint64_t>();
  return true;
}

bool ReadBool(const Json& object, const char* key, std::optional<bool>* out) {
  const auto found = object.find(key);
  if (found == object.end()) return true;
  if (!found->is_boolean()) return false;
  *out = found->get<bool>();
  return true;
}

tl::unexpected<Error> WrongType(std::string_view key, std::string_view type) {
  return FailWith(EINVAL, "VERSION's capability '{}' is not {}", key, type);
}

Result<void> ReadMigration(const Json& object, Capabilities* out) {
  const auto found = object.find("migration");
  if (found == object.end()) return {};
  Capabilities::Migration migration;
  std::optional<uint64_t> pgsize;
  if (!found->is_object() || !ReadNumber(*found, "pgsize", &pgsize) ||
      !ReadNumber(*found, "max_bitmap_size", &migration.max_bitmap_size)) {
    return WrongType("migration", "an object of numbers");
  }
  migration.pgsize = pgsize.value_or(migration.pgsize);
  out->migration = migration;
  return {};
}

Result<void> ReadTwinSocket(const Json& object, Capabilities* out) {
  const auto found = object.find("twin_socket");
  if (found == object.end()) return {};
  std::optional<bool> supported;
  std::optional<uint64_t> fd_index;
  if (!found->is_object() || !ReadBool(*found, "supported", &supported) ||
      !ReadNumber(*found, "fd_index", &fd_index) || fd_index.value_or(0) > UINT32_MAX) {
    return WrongType("twin_socket", "an object with 'supported' and 'fd_index'");
  }
  out->twin_socket =
      Capabilities::TwinSocket{.supported = supported.value_or(false), .fd_index = {}};
  if (fd_index) out->twin_socket->fd_index = static_cast<uint32_t>(*fd_index);
  return {};
}

Result<void> ReadFarside(const Json& object, Capabilities* out) {
  const auto found = object.find("farside");
  if (found == object.end()) return {};
  std::optional<bool> interrupt;
  std::optional<bool> clock;
  const Json device = found->is_object() ? found->value("device", Json()) : Json();
  if (!device.is_null() && !device.is_string()) return WrongType("farside.device", "a text");
  if (!found->is_object() || !ReadBool(*found, "interrupt", &interrupt) ||
      !ReadBool(*found, "clock", &clock)) {
    return WrongType("farside", "an object with 'interrupt' and 'clock'");
  }
  out->farside = Capabilities::Farside{interrupt.value_or(false), clock.value_or(false), {}};
  if (device.is_string()) out->farside->device = device;
  return {};
}

}  // namespace

Result<Capabilities> ParseCapabilities(std::string_view text) {
  Capabilities out;
  if (text.empty()) return out;
  bool too_deep = false;
  const auto bound_depth = [&](int depth, Json::parse_event_t, Json&) {
    too_deep |= depth > kMaxDepth;
    return !too_deep;
  };
  const Json json = Json::parse(text, bound_depth, /*allow_exceptions=*/false);
  if (too_deep || !json.is_object()) {
    return FailWith(EINVAL, "VERSION's data is not a JSON object of at most {} levels", kMaxDepth);
  }
  const auto found = json.find("capabilities");
  if (found == json.end()) return out;
  if (!found->is_object()) return WrongType("capabilities", "an object");
  if (!ReadNumber(*found, "max_msg_fds", &out.max_msg_fds)) {
    return WrongType("max_msg_fds", "a number");
  }
  if (!ReadNumber(*found, "max_data_xfer_size", &out.max_data_xfer_size) ||
      out.max_data_xfer_size == 0) {
    return WrongType("max_data_xfer_size", "a number above 0");
  }
  if (!ReadNumber(*found, "max_dma_maps", &out.max_dma_maps)) {
    return WrongType("max_dma_maps", "a number");
  }
  if (!ReadNumber(*found, "pgsizes", &out.pgsizes)) return WrongType("pgsizes", "a number");
  if (!ReadBool(*found, "write_multiple", &out.write_multiple)) {
    return WrongType("write_multiple", "true or false");
  }
  if (const auto read = ReadMigration(*found, &out); !read) return tl::unexpected(read.error());
  if (const auto read = ReadTwinSocket(*found, &out); !read) return tl::unexpected(read.error());
  if (const auto read = ReadFarside(*found, &out); !read) return tl::unexpected(read.error());
  return out;
}

std::string FormatCapabilities(const Capabilities& from) {
  Json object = Json::object();
  if (from.max_msg_fds) object["max_msg_fds"] = *from.max_msg_fds;
  if (from.max_data_xfer_size) object["max_data_xfer_size"] = *from.max_data_xfer_size;
  if (from.max_dma_maps) object["max_dma_maps"] = *from.max_dma_maps;
  if (from.pgsizes) object["pgsizes"] = *from.pgsizes;
  if (from.write_multiple) object["write_multiple"] = *from.write_multiple;
  if (from.migration) {
    object["migration"]["pgsize"] = from.migration->pgsize;
    if (from.migration->max_bitmap_size) {
      object["migration"]["max_bitmap_size"] = *from.migration->max_bitmap_size;
    }
  }
  if (from.twin_socket) {
    object["twin_socket"]["supported"] = from.twin_socket->supported;
    if (from.twin_socket->fd_index) object["twin_socket"]["fd_index"] = *from.twin_socket->fd_index;
  }
  if (from.farside) {
    object["farside"] = {{"interrupt", from.farside->interrupt}, {"clock", from.farside->clock}};
    if (from.farside->device) object["farside"]["device"] = *from.farside->device;
  }
  return Json{{"capabilities", object}}.dump();
}

Capabilities Negotiate(const Capabilities& own, const Capabilities& theirs) {
  Capabilities out;
  const auto smaller = [](std::optional<uint64_t> mine, std::optional<uint64_t> offered) {
    return mine && offered ? std::optional(std::min(*mine, *offered)) : std::nullopt;
  };
  // max_msg_fds says what the sender can receive: it is not bounded by the other end's.
  if (theirs.max_msg_fds) out.max_msg_fds = own.max_msg_fds;
  out.max_data_xfer_size = smaller(own.max_data_xfer_size, theirs.max_data_xfer_size);
  out.max_dma_maps = smaller(own.max_dma_maps, theirs.max_dma_maps);
  if (theirs.pgsizes) out.pgsizes = own.pgsizes;
  if (theirs.write_multiple.value_or(false)) out.write_multiple = own.write_multiple;
  if (own.migration && theirs.migration) {
    out.migration = own.migration;
    out.migration->max_bitmap_size =
        smaller(own.migration->max_bitmap_size, theirs.migration->max_bitmap_size);
  }
  if (own.farside && theirs.farside) {
    out.farside = Capabilities::Farside{own.farside->interrupt && theirs.farside->interrupt,
                                        own.farside->clock && theirs.farside->clock,
                                        {}};
    if (theirs.farside->device) out.farside->device = own.farside->device;
  }
  if (own.twin_socket && theirs.twin_socket && theirs.twin_socket->supported) {
    out.twin_socket = own.twin_socket;
  }
  return out;
}

}  // namespace farside::vfio_user
