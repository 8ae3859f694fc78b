// DmaMessages: DMA_READ and DMA_WRITE, the commands that go from server to client.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "base/loop.h"
#include "devices/server/dma_table.h"
#include "protocol/vfio_user_codec.h"

namespace farside {

// Sends DMA commands over the channel it is attached to and pairs the replies. Belongs to a device
// and outlives channels: tasks may still wait in it when a channel goes.
class DmaMessages final : public DmaMessenger {
 public:
  // A client that does not answer within this time has failed the access; so has one that keeps an
  // access waiting for others as long.
  static constexpr uint64_t kReplyTimeoutNs = 5'000'000'000;
  // Commands on the wire at once; more wait.
  static constexpr size_t kMaxInFlight = 64;
  // The most bytes in one command, and in all the DMA_READs whose replies are still to come. QEMU
  // (seen with 11.1.3) that finds its socket's buffer full in the middle of a long reply sends
  // another message there: its stream is out of step from then on. So its replies must always fit:
  // the default buffer takes about 200 KiB.
  static constexpr uint64_t kMaxTransfer = 64 << 10;
  static constexpr uint64_t kMaxReadBytesInFlight = 128 << 10;

  // The channel, as far as it concerns DMA.
  class Channel {
   public:
    virtual ~Channel() = default;
    virtual vfio_user::FrameWriter& writer() = 0;
    // Frames were appended to the writer.
    virtual void OnAppended() = 0;
  };

  explicit DmaMessages(Loop& loop);
  ~DmaMessages() override;

  // `max_transfer`: the most bytes in one command.
  void Attach(Channel& channel, uint64_t max_transfer);
  // Cancels everything and forgets the channel.
  void Detach();

  // Accesses end with kCancelled and send nothing more. Their message ids stay reserved until the
  // client answers.
  void CancelAll();
  // The same for accesses that touch the range.
  void Cancel(uint64_t iova, uint64_t size);

  // A reply of the client's, which may come too late for its access; false if it belongs to no
  // command or does not fit it.
  bool OnReply(const vfio_user::Frame& reply);

  Task<DmaStatus> ReadByMessage(uint64_t iova, Bytes out) override;
  Task<DmaStatus> WriteByMessage(uint64_t iova, ConstBytes in) override;

 private:
  class Access;  // A read or write of any size, in the frame of its task.
  // A command on the wire.
  struct Pending {
    bool reserved = false;
    vfio_user::Command command{};
    uint64_t size = 0;
    Access* access = nullptr;  // nullptr when nobody waits any more.
  };

  Task<DmaStatus> Transfer(Access& access, vfio_user::Command command, uint64_t iova, Bytes out,
                           ConstBytes in);
  // A free slot for a command that will bring `reply_bytes`, or nullptr while there is none.
  Pending* FindFree(uint64_t reply_bytes);
  void Send(Pending& pending, uint64_t iova, ConstBytes in);
  template <typename Selects>
  void CancelIf(Selects&& selects);
  void Expire();

  Loop& loop_;
  Channel* channel_ = nullptr;
  uint64_t max_transfer_ = 0;
  uint64_t read_bytes_in_flight_ = 0;
  std::vector<Access*> accesses_;              // All that have not ended.
  std::array<Pending, kMaxInFlight> pending_;  // The index is the message id.
  Wakeup slot_free_;
  Timer expiry_;
};

}  // namespace farside
