// BlockTarget: the block graph under a user that knows what its disks hold.
//
// What a session's events are to it:
//   frame       options of a node, as text of -blockdev: key=value or JSON
//   read        of node `region`; `size` stands for a length (LengthOf)
//   write       the same, of bytes that follow from `value`; an odd `value` asks for FUA
//   write_data  of `data`
//   disk        `action` is the node times 16, and what is done: 0 flush, 1 zeroes, 2 zeroes that
//               may unmap, 3 discard; `value` is the offset times 2^20, and the length
//   reset       all nodes go
#pragma once

#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/epoll_loop.h"
#include "block/graph.h"
#include "fuzz/targets/target.h"

namespace farside::fuzz {

// Oracles: "block-data" (a read gives other bytes than were written, zeroed or there before),
// "block-status" (a request inside the disk fails, or one that can't be done does not).
//
// Files are left out: a session may not name any, and the host's answers are not ours to fuzz.
class BlockTarget final : public Target {
 public:
  static constexpr size_t kMaxNodes = 16;
  // So much of a disk's beginning is compared.
  static constexpr uint64_t kMaxShadow = 128 << 10;

  BlockTarget();

  void Run(ConstBytes input) override;

  // The bytes of an access: any number up to 127, or about so many times 512, up to 64 KiB.
  static uint64_t LengthOf(uint8_t size) { return size < 128 ? size : (size - 128u) * 513u; }

 private:
  // What a disk holds before anything is written to it.
  struct Content {
    enum class Kind { kZeroes, kGenerated, kNothing } kind = Kind::kZeroes;
    uint64_t seed = 0;
    uint64_t offset = 0;  // Of the disk in what has the content.
  };
  struct Node {
    std::string name;
    Content content;
    block::BlockDevice* device = nullptr;  // Once it was claimed.
    std::vector<std::byte> shadow = {};
  };

  void Execute(const Event& event);
  void AddNode(ConstBytes text);
  std::optional<Content> ContentOf(const nlohmann::json& options) const;
  // nullptr if there is none, or it is another node's.
  Node* Use(size_t index);
  void Read(Node& node, uint64_t offset, uint64_t length, uint64_t split);
  void Write(Node& node, uint64_t offset, ConstBytes data, bool fua, uint64_t split);
  void Act(Node& node, uint8_t action, uint64_t offset, uint64_t length);
  void CheckStatus(const Node& node, const char* what, uint64_t offset, uint64_t length,
                   bool writes, block::IoStatus status) const;
  block::IoStatus Await(Task<block::IoStatus> task);

  MonotonicClock clock_;
  std::unique_ptr<EpollLoop> loop_;
  std::optional<FramePool::Scope> frames_;
  TaskScope scope_;
  std::optional<block::Graph> graph_;
  std::vector<Node> nodes_;
  Session session_;
};

}  // namespace farside::fuzz
