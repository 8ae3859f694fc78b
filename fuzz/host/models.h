// The devices that are fuzzed, made through the registry as a process makes them.
#pragma once

#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/loop.h"
#include "devices/core/device.h"
#include "devices/registry/registry.h"
#include "fuzz/host/disk.h"

namespace farside::fuzz {

// Disks and buses of one device.
class ModelBackends final : public Backends {
 public:
  explicit ModelBackends(Loop& loop) : loop_(loop) {}

  Result<block::BlockDevice*> ClaimBlock(std::string_view name, std::string_view user) override;
  Result<scsi::Bus*> FindScsiBus(std::string_view name) override;
  void OfferScsiBus(std::string_view name, scsi::Bus& bus) override;

  // All disks as a new session finds them; see Disk.
  void BeginDisks(bool deferred);
  void SettleDisks();
  // A kDisk event: an action in the low bits of `what`, a disk in the high ones.
  void Act(const Event& event);
  uint64_t requests() const;  // Of all, since BeginDisks.
  bool in_flight() const;
  const Disk& disk(size_t index) const { return *disks_[index]; }

 private:
  Loop& loop_;
  std::vector<std::unique_ptr<Disk>> disks_;
  scsi::Bus* bus_ = nullptr;
};

// Makes the first of `options`, each JSON of a -device, and attaches the others to it. The disks
// that they name are made too, read-only where the name begins with "ro".
std::unique_ptr<Device> MakeModel(std::span<const std::string_view> options, DeviceEnv env,
                                  ModelBackends& backends);

// Of the options: pairs of I/O queues, and the largest transfer in bytes.
inline constexpr uint32_t kNvmePairs = 4;
inline constexpr uint64_t kNvmeMaxTransfer = 4096 << 4;
inline constexpr std::string_view kNvmeOptions[] = {
    R"({"driver":"nvme","drive":"d0","serial":"fuzz","max_ioqpairs":4,"msix_qsize":5,"mdts":4})"};
inline constexpr uint64_t kLsiQuantum = 64;  // Of the options.
inline constexpr uint64_t kLsiDiskWwn = 0x5000'c500'1234'5678;
inline constexpr std::string_view kLsiOptions[] = {
    R"({"driver":"lsi53c895a","quantum":64})",
    R"({"driver":"scsi-hd","drive":"d0","scsi-id":0,"wwn":"0x5000c50012345678"})",
    R"({"driver":"scsi-cd","drive":"ro1","scsi-id":1})",
    R"({"driver":"scsi-hd","drive":"ro2","scsi-id":3})"};
// The first of them, which states that are stored were made with.
inline constexpr auto kLsiStateOptions = std::span(kLsiOptions).first<3>();

}  // namespace farside::fuzz
