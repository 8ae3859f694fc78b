// Target: the device under test of a replay, in this process or behind a channel.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/bytes.h"
#include "base/error.h"
#include "base/fd.h"
#include "protocol/trace/event.h"

namespace farside::replay {

// Takes what comes from the device, in its order.
class Outputs {
 public:
  virtual ~Outputs() = default;
  // 0, or the errno that the device is answered.
  virtual int OnDmaRead(uint64_t iova, Bytes out) = 0;
  virtual int OnDmaWrite(uint64_t iova, ConstBytes data) = 0;
  virtual void OnInterrupt(uint32_t index, uint32_t vector) = 0;
  // The device leases memory to write to. True if the recorded one was refused it then.
  virtual bool RefuseLease(uint64_t iova, uint64_t size) = 0;
};

class Target {
 public:
  virtual ~Target() = default;

  // Called before anything else; outlives the target.
  virtual Result<void> Attach(Outputs& outputs) = 0;

  // Lets the device's clock be `time_ns`, if it can be moved.
  virtual void AdvanceClock(uint64_t time_ns) = 0;

  // The recorded device's deadline has come by the time of the last AdvanceClock. For who does not
  // see that by it.
  virtual void OnDeadline() {}

  // Gives the device a recorded command, and waits for its reply where `reply` is not null: the
  // reply's payload, or nothing and the errno for an error reply. Outputs may come meanwhile.
  struct Reply {
    int error = 0;
    std::vector<std::byte> payload;
  };
  virtual Result<void> Deliver(const trace::Event& command, Reply* reply) = 0;

  // Lets the device work until something came from it; false if nothing does within `timeout_ns`,
  // or, in process, ever will by itself.
  virtual Result<bool> Wait(uint64_t timeout_ns) = 0;

  // False if what does not come from Wait never will.
  virtual bool takes_time() const = 0;
  // False as long as the device is seen to be at work, or to wait for its turn of the CPU.
  virtual bool seems_idle() const { return true; }

  // The memory of a device that reaches it by itself, so that its DMA is not among the outputs:
  // what the guest writes goes there, and it is looked at instead. False of others.
  virtual bool shares_memory() const { return false; }
  virtual void WriteMemory(uint64_t, ConstBytes) {}
  virtual void ReadMemory(uint64_t, Bytes out) const { Fill(out, 0); }

  // Lets the device's tasks make as many steps as it takes to have made `count` since the last
  // Deliver. Only in process; elsewhere nothing happens.
  virtual void Step(uint64_t count) = 0;
};

// Behind the vfio-user socket `path`. All of memory is one window without an fd, so that every
// access is a message; interrupts come in-band where the server can, by eventfd elsewhere.
Result<std::unique_ptr<Target>> ConnectTarget(const std::string& path);

// At the other end of a connected socket that speaks mpqemu. Memory is shared by fd: 3 GiB from 0
// and 5 GiB from 4 GiB; what lies elsewhere is not there. `process` is who serves it, of this
// machine.
Result<std::unique_ptr<Target>> MakeMpqemuTarget(UniqueFd socket, pid_t process);

// The device that a trace's first block names, made in this process.
Result<std::unique_ptr<Target>> MakeTargetInProcess(const trace::TraceInfo& info);

}  // namespace farside::replay
