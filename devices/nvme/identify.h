// The data structures that Identify returns. NVM Express 1.4, section 5.15.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "devices/nvme/namespace.h"

namespace farside::nvme {

// No registered vendor has these: a driver that knows a vendor's quirks must not take us for it.
inline constexpr uint16_t kVendorId = 0xfa51;
inline constexpr uint16_t kDeviceId = 0x0001;

inline constexpr std::string_view kModelNumber = "Farside NVMe Controller";
inline constexpr std::string_view kFirmwareRevision = "1.0";

inline constexpr uint32_t kMaxSerialSize = 20;
inline constexpr uint32_t kMaxEventRequests = 4;
inline constexpr uint32_t kMaxAborts = 4;  // Each ends at once, so the limit is never met.
inline constexpr uint32_t kErrorLogEntries = 16;

// Each returns kIdentifySize bytes. `serial` is also the seed of the UUIDs that tell namespaces and
// subsystems apart: controllers with different serials differ in them.
std::vector<std::byte> IdentifyController(std::string_view serial, uint32_t mdts);
std::vector<std::byte> IdentifyNamespace(const Namespace& ns);
std::vector<std::byte> IdentifyActiveNamespaces(uint32_t after);
std::vector<std::byte> IdentifyNamespaceDescriptors(std::string_view serial);

}  // namespace farside::nvme
