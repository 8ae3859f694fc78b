// The referee of the protocol lets pass what a server may do, and sees what it may not.
#include "fuzz/host/protocol_referee.h"

#include <gtest/gtest.h>

#include <cerrno>

#include "base/fd.h"
#include "fuzz/host/host.h"
#include "protocol/test_support.h"

namespace farside::fuzz {
namespace {

using vfio_user::Command;
using vfio_user::Feature;
using vfio_user::MigrationState;

// All of the guest's memory, and a client with the device whose server is judged.
class Scene final : private GuestMemory {
 public:
  Scene() {
    info_.regions[0].size = 0x1000;
    info_.msix_count = 4;
    referee_.Begin();
    Send(Command::kVersion, Pack(vfio_user::Version{.major = 0, .minor = 1}));
    Answer(0, Pack(vfio_user::Version{.major = 0, .minor = 1}));
  }

  ProtocolReferee& referee() { return referee_; }
  // By the device, through its mapping.
  void Touch(uint64_t iova) { memory_[iova - Host::kBase] ^= std::byte{1}; }

  void Send(Command command, ConstBytes payload, std::span<const int> fds = {},
            uint32_t flags = 0) {
    header_ = vfio_user::CommandHeader(++id_, command, payload.size(), flags);
    referee_.OnCommand(header_, payload, fds);
  }
  void Answer(int error, ConstBytes payload = {}) {
    const auto header = error != 0 ? vfio_user::ErrorHeader(header_, error)
                                   : vfio_user::ReplyHeader(header_, payload.size());
    referee_.OnReply({.header = header, .payload = payload});
  }
  void Do(Command command, ConstBytes payload, int error = 0, ConstBytes reply = {}) {
    Send(command, payload);
    Answer(error, reply);
  }

  void Map(uint64_t iova, uint64_t size, int error = 0, int fd = -1) {
    const vfio_user::DmaMap map{.argsz = sizeof map, .flags = 3, .iova = iova, .size = size};
    Send(Command::kDmaMap, Pack(map), std::span(&fd, fd < 0 ? 0 : 1));
    Answer(error);
  }
  void Unmap(uint64_t iova, uint64_t size, int error = 0) {
    Do(Command::kDmaUnmap, Pack(vfio_user::DmaUnmap{.argsz = 24, .iova = iova, .size = size}),
       error);
  }
  void SetState(MigrationState state, int error = 0) {
    const auto payload = Asks(Feature::kMigrationState,
                              vfio_user::FeatureMigrationState{static_cast<uint32_t>(state)});
    Do(Command::kDeviceFeature, payload, error, error != 0 ? ConstBytes() : payload);
  }

  template <typename T>
  static std::vector<std::byte> Asks(Feature feature, const T& data) {
    const uint32_t operation =
        feature == Feature::kDmaLoggingReport ? vfio_user::kFeatureGet : vfio_user::kFeatureSet;
    return Pack(
        vfio_user::DeviceFeature{.argsz = 256, .flags = operation | static_cast<uint32_t>(feature)},
        data);
  }

 private:
  ConstBytes Peek(uint64_t iova, uint64_t size) const override {
    if (iova < Host::kBase || iova - Host::kBase >= memory_.size()) return {};
    const uint64_t at = iova - Host::kBase;
    return ConstBytes(memory_).subspan(at, std::min<uint64_t>(size, memory_.size() - at));
  }
  bool quiet() const override { return true; }

  DeviceInfo info_;
  std::vector<std::byte> memory_ = std::vector<std::byte>(Host::kSize);
  ProtocolReferee referee_{info_, *this};
  vfio_user::Header header_;
  uint16_t id_ = 0;
};

TEST(ProtocolRefereeTest, LetsPassWhatIsInOrder) {
  Scene scene;
  scene.Map(0x1000, 0x1000);
  scene.Map(0x1000, 0x1000, EEXIST);
  scene.Unmap(0x1000, 0x800, EINVAL);
  scene.Unmap(0, 0x4000);
  scene.Map(0x1000, 0x1000);
  scene.SetState(MigrationState::kStopCopy);
  scene.SetState(MigrationState::kPreCopy, EINVAL);
  const vfio_user::RegionAccess access{.offset = ~uint64_t{0} - 3, .region = 0, .count = 8};
  scene.Do(Command::kRegionRead, AsBytes(access), 0, Pack(access, ~uint64_t{0}));
  scene.Do(Command::kRegionRead, AsBytes(access), EINVAL);
  scene.referee().OnEnd();
}

TEST(ProtocolRefereeDeathTest, FollowsWhatIsPosted) {
  Scene scene;
  const vfio_user::DmaMap map{.argsz = sizeof map, .iova = 0x1000, .size = 0x1000};
  scene.Send(Command::kDmaMap, AsBytes(map), {}, vfio_user::kFlagNoReply);
  EXPECT_DEATH(scene.Map(0x1000, 0x1000), "refusal");
}

TEST(ProtocolRefereeDeathTest, OraclesFire) {
  Scene scene;
  scene.Map(0x1000, 0x2000);
  EXPECT_DEATH(scene.Map(0x4000, 0x1000, ENOSPC), "acceptance");
  EXPECT_DEATH(scene.Map(0x2000, 0x4000), "refusal.*over another");
  EXPECT_DEATH(scene.Map(~uint64_t{0} - 0xfff, 0x2000), "refusal.*wraps");
  EXPECT_DEATH(scene.Unmap(0x1000, 0x1000), "refusal.*cuts");
  EXPECT_DEATH(scene.SetState(MigrationState::kPreCopy), "refusal");
  EXPECT_DEATH(scene.SetState(MigrationState::kStop, EINVAL), "acceptance");
  EXPECT_DEATH(scene.Do(Command::kVersion, Pack(vfio_user::Version{})), "refusal");
  const vfio_user::RegionAccess access{.offset = 0x1000, .region = 0, .count = 8};
  EXPECT_DEATH(scene.Do(Command::kRegionRead, AsBytes(access), 0, Pack(access, uint64_t{0})),
               "reply-content.*ones");
}

TEST(ProtocolRefereeDeathTest, DescriptorsAreWhatTheyShouldBe) {
  Scene scene;
  const UniqueFd memory = MakeMemfd("short", 4096).value();
  EXPECT_DEATH(scene.Map(0x1000, 0x2000, 0, memory.get()), "refusal.*end of its file");
  const vfio_user::SetIrqs set{
      .argsz = sizeof set, .flags = 0x24, .index = 2, .start = 0, .count = 1};
  const int fd = memory.get();
  scene.Send(Command::kDeviceSetIrqs, AsBytes(set), std::span(&fd, 1));
  EXPECT_DEATH(scene.Answer(0), "refusal.*eventfd");
  scene.Answer(EINVAL);
}

TEST(ProtocolRefereeDeathTest, MemoryWithoutAWindowStaysAsItIs) {
  Scene scene;
  const UniqueFd memory = MakeMemfd("memory", Host::kSize).value();
  scene.Map(Host::kBase, Host::kSize, 0, memory.get());
  scene.Unmap(Host::kBase, Host::kSize);
  scene.referee().OnGuestWrite(Host::kBase, {});
  scene.Touch(Host::kBase + 5);
  EXPECT_DEATH(scene.referee().OnEnd(), "dma-window");
}

TEST(ProtocolRefereeDeathTest, WhatTheDeviceWritesIsReported) {
  Scene scene;
  const UniqueFd memory = MakeMemfd("memory", Host::kSize).value();
  scene.Map(Host::kBase, Host::kSize, 0, memory.get());
  const auto start = Pack(vfio_user::FeatureDmaLoggingStart{.page_size = 4096, .num_ranges = 1},
                          vfio_user::DmaLoggingRange{Host::kBase, Host::kSize});
  auto log = Scene::Asks(Feature::kDmaLoggingStart, uint64_t{0});
  log.resize(sizeof(vfio_user::DeviceFeature));
  scene.Do(Command::kDeviceFeature, Pack(log, start), 0, log);
  scene.Touch(Host::kBase + 0x1234);
  const auto report =
      Scene::Asks(Feature::kDmaLoggingReport,
                  vfio_user::FeatureDmaLoggingReport{
                      .iova = Host::kBase, .length = Host::kSize, .page_size = 4096});
  scene.Send(Command::kDeviceFeature, report);
  EXPECT_DEATH(scene.Answer(0, Pack(report, uint64_t{1})), "dirty-log");
  scene.Answer(0, Pack(report, uint64_t{2}));
  scene.Do(Command::kDeviceFeature, report, 0, Pack(report, uint64_t{0}));
}

}  // namespace
}  // namespace farside::fuzz
