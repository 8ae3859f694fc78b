#include "harness/record/version_filter.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "base/options.h"
#include "protocol/vfio_user.h"

namespace farside::record {
namespace {

using nlohmann::json;

// Those that mean the same for whoever stands in the middle.
constexpr std::string_view kCarried[] = {
    "max_msg_fds",    "max_data_xfer_size", "max_dma_maps", "pgsizes",
    "write_multiple", "migration",          "farside",
};
// Of "farside": extensions that are messages like others.
constexpr std::string_view kCarriedExtensions[] = {"interrupt", "clock"};

template <size_t kCount>
bool Keep(json& object, const std::string_view (&keys)[kCount]) {
  bool changed = false;
  for (auto entry = object.begin(); entry != object.end();) {
    if (std::ranges::count(keys, entry.key()) != 0) {
      ++entry;
    } else {
      entry = object.erase(entry);
      changed = true;
    }
  }
  return changed;
}

bool Limit(json& object, const char* key, uint64_t most) {
  const auto found = object.find(key);
  if (found == object.end() || !found->is_number_unsigned() || found->get<uint64_t>() <= most) {
    return false;
  }
  *found = most;
  return true;
}

bool Filter(json& capabilities) {
  bool changed = Keep(capabilities, kCarried);
  changed |= Limit(capabilities, "max_msg_fds", vfio_user::kMaxMessageFds);
  changed |= Limit(capabilities, "max_data_xfer_size", kMaxTransfer);
  const auto extensions = capabilities.find("farside");
  if (extensions != capabilities.end() && extensions->is_object()) {
    changed |= Keep(*extensions, kCarriedExtensions);
  }
  return changed;
}

}  // namespace

std::vector<std::byte> FilterVersion(ConstBytes payload) {
  std::vector<std::byte> out(payload.begin(), payload.end());
  if (payload.size() <= sizeof(vfio_user::Version)) return out;
  const ConstBytes text = payload.subspan(sizeof(vfio_user::Version));
  // The text may lack its NUL, or have several.
  const auto whole = std::string_view(reinterpret_cast<const char*>(text.data()), text.size());
  auto document = ParseJson(whole.substr(0, whole.find('\0')));
  if (!document || !document->is_object()) return out;
  const auto capabilities = document->find("capabilities");
  if (capabilities == document->end() || !capabilities->is_object() || !Filter(*capabilities)) {
    return out;
  }
  const std::string filtered = document->dump();
  const auto bytes = std::as_bytes(std::span(filtered.c_str(), filtered.size() + 1));
  out.resize(sizeof(vfio_user::Version));
  out.insert(out.end(), bytes.begin(), bytes.end());
  return out;
}

}  // namespace farside::record
