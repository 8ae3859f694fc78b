// Node: what every block node of this folder shares.
#pragma once

#include <cstdint>
#include <string>

#include "base/check.h"
#include "block/block_device.h"

namespace farside::block {

// Disks are whole sectors, whatever their driver.
inline constexpr uint64_t kSectorSize = 512;

// The options that every driver takes.
struct NodeOptions {
  std::string name = {};
  bool read_only = false;
  bool unmap = false;  // discard=unmap; else Discard does nothing, and nor does `may_unmap`.
};

// What nodes that keep their content in memory can do.
BlockLimits InMemoryLimits(const NodeOptions& options);

class Node : public BlockDevice {
 public:
  Node(const Node&) = delete;
  Node& operator=(const Node&) = delete;
  ~Node() override { CHECK(in_flight_ == 0); }

  const std::string& name() const { return options_.name; }
  uint64_t size() const final { return size_; }
  bool read_only() const final { return options_.read_only; }
  BlockLimits limits() const final { return limits_; }
  uint32_t in_flight() const override { return in_flight_; }

 protected:
  Node(const NodeOptions& options, uint64_t size, BlockLimits limits);

  // Counts a request as in flight for as long as its task runs.
  class InFlight {
   public:
    explicit InFlight(Node& node) : node_(node) { ++node_.in_flight_; }
    InFlight(const InFlight&) = delete;
    InFlight& operator=(const InFlight&) = delete;
    ~InFlight() { --node_.in_flight_; }

   private:
    Node& node_;
  };

  bool unmap() const { return options_.unmap; }

  // What is wrong with a request for this range, before anything is done: 0 or an errno.
  int CheckRead(uint64_t offset, uint64_t size) const;
  int CheckWrite(uint64_t offset, uint64_t size) const;

 private:
  NodeOptions options_;
  uint64_t size_;
  BlockLimits limits_;
  uint32_t in_flight_ = 0;
};

}  // namespace farside::block
