// Cd: a CD or DVD drive (MMC-6, its read side) whose disc is a block node. It reads data discs of
// one track.
#pragma once

#include <cstdint>
#include <memory>

#include "base/error.h"
#include "devices/scsi/block_unit.h"

namespace farside::scsi {

struct CdOptions {
  block::BlockDevice* drive = nullptr;  // Outlives the drive and its requests.
  Identity identity = {};
};

class Cd final : public BlockUnit {
 public:
  static constexpr uint32_t kBlockSize = 2048;

  static Result<std::unique_ptr<Cd>> Create(const CdOptions& options);

  Task<Status> Execute(Request& request) override;
  // The tray stays as it is; it may be opened again.
  void Reset() override;
  void Save(StateWriter& out) const override;
  Result<void> Load(StateReader& in) override;
  void SaveFast(FastState& out) const override;
  void LoadFast(FastReader& in) override;

 private:
  // Media events, MMC-6 table 295.
  enum class Event : uint8_t { kNone = 0, kEjectRequest = 1, kNewMedia = 2, kMediaRemoval = 3 };

  explicit Cd(const CdOptions& options);

  // Those that answer with or without a disc; then those that need one.
  Task<Status> ExecuteWithDisc(Request& request);
  Status StartStop(Request& request);
  Status PreventAllow(Request& request);
  Task<Status> Read(Request& request);
  Task<Status> ReadToc(Request& request);
  Task<Status> ReadDiscInformation(Request& request);
  Task<Status> GetConfiguration(Request& request);
  Task<Status> GetEventStatus(Request& request);
  Task<Status> MechanismStatus(Request& request);
  void FormatVpdPage(uint8_t page, DataWriter& out) const override;

  void SetPrevented(bool prevented);
  void SetTray(bool open);
  bool is_dvd() const;

  bool tray_open_ = false;
  bool prevented_ = false;
  Event event_ = Event::kNone;
};

}  // namespace farside::scsi
