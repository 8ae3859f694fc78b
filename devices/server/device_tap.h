// DeviceTap: records all that crosses a device's interfaces, in one total order.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "base/loop.h"
#include "devices/core/device.h"
#include "protocol/trace/trace_writer.h"

namespace farside {

// Shared by the taps of a process's devices: one file, one order. The process goes on when the file
// can't be written any more; the first such error is kept.
class TapFile {
 public:
  TapFile(std::unique_ptr<trace::TraceWriter> writer, const Loop& loop, const Clock& clock)
      : writer_(std::move(writer)), loop_(loop), clock_(clock), start_ns_(clock.now_ns()) {}

  // Since recording began.
  uint64_t elapsed_ns() const { return clock_.now_ns() - start_ns_; }
  // An event that the device makes, or the answer to one.
  void Record(trace::Event event);
  // An event that comes to the device unasked: the loop's steps before it are recorded first, since
  // they lead to the events before.
  void RecordInput(trace::Event event);
  // Ends the file. The first error of all writing, if there was one.
  Result<void> Finish();

 private:
  std::unique_ptr<trace::TraceWriter> writer_;
  const Loop& loop_;
  const Clock& clock_;
  uint64_t start_ns_;
  uint64_t steps_ = 0;  // The loop's resumptions at the last event from outside.
  Result<void> status_;
};

// Stands between a device and what it is given, and between the server and the device. Calls are
// spelled as the vfio-user messages that would carry them (protocol/trace/trace_format.md).
class DeviceTap {
 public:
  // `index` counts in TraceInfo::devices. `env` is what the device would have been given.
  DeviceTap(TapFile& file, uint32_t index, DeviceEnv env);
  ~DeviceTap();

  // What the device is given instead.
  DeviceEnv env() const;
  // What the server is given instead of `device`; the tap outlives it.
  std::unique_ptr<Device> Wrap(std::unique_ptr<Device> device);

 private:
  class TappedDevice;
  class TappedDma;
  class TappedIrq;

  trace::Event MakeEvent(trace::Direction direction, const vfio_user::Header& header,
                         ConstBytes fields, ConstBytes data) const;
  // A command of the guest's side; its header, for the reply.
  vfio_user::Header Input(vfio_user::Command command, ConstBytes fields, ConstBytes data);
  // The device's answer to one.
  void InputReply(const vfio_user::Header& command, ConstBytes fields, ConstBytes data);
  // A command of the device's, and the answer to it.
  vfio_user::Header Output(vfio_user::Command command, ConstBytes fields, ConstBytes data);
  void OutputReply(const vfio_user::Header& command, DmaStatus status, ConstBytes fields,
                   ConstBytes data);
  void Interrupt(vfio_user::IrqIndex index, uint32_t vector);
  // The device's deadline has come.
  void Deadline();
  uint16_t NextId() { return next_id_++; }

  TapFile& file_;
  uint32_t index_;
  DeviceEnv env_;
  uint16_t next_id_ = 0;
  std::unique_ptr<TappedDma> dma_;
  std::unique_ptr<TappedIrq> irq_;
};

}  // namespace farside
