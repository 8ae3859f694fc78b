// Graph: the named block nodes of a process, as -blockdev makes them.
#pragma once

#include <cstdint>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "base/epoll_loop.h"
#include "base/error.h"
#include "block/block_device.h"

namespace farside::block {

// Options are QEMU's for -blockdev, in their nested JSON form; values may be JSON's own or text:
//
//   {"driver": "raw", "node-name": "d0", "cache": {"direct": true},
//    "file": {"driver": "file", "filename": "/images/d0.img"}}
//
// A node without a name of its own inside another's options is called after it: "d0.file". Unless
// it says otherwise it takes over read-only and cache.direct, and discards with discard=unmap, so
// that the outer node alone decides. A node has one user: another node or a device.
class Graph {
 public:
  Graph() = default;
  Graph(const Graph&) = delete;
  Graph& operator=(const Graph&) = delete;
  // Users before used. No request is in flight.
  ~Graph();

  // Opens a node, and the nodes inside its options, on `loop`. All or nothing.
  Result<void> Add(const nlohmann::json& options, EpollLoop& loop);

  // Null where there is no such node.
  BlockDevice* Find(std::string_view name) const;

  // Gives `user` (as in "device 'nvme0'") the node for itself.
  Result<BlockDevice*> Claim(std::string_view name, std::string_view user);

  // Requests that have not completed, of all nodes.
  uint32_t in_flight() const;

  // Flushes every node, for the end of the process; no node is added meanwhile. Gives the first
  // failure, after going on with the others.
  Task<IoStatus> FlushAll();

 private:
  struct Entry {
    std::string name;
    std::unique_ptr<BlockDevice> device;
    std::string file;  // The node it stands on; empty: none.
    std::string user;  // Who uses it; empty: nobody.
    EpollLoop* loop = nullptr;
  };

  Entry* FindEntry(std::string_view name);
  Result<Entry*> FindFree(std::string_view name);
  Result<void> Open(const nlohmann::json& options, const std::string& implied_name, size_t depth,
                    EpollLoop& loop);
  Result<Entry*> OpenFileOf(const std::string& name, const nlohmann::json& options, size_t depth,
                            EpollLoop& loop);
  Result<std::string> NameOf(const nlohmann::json& options, const std::string& implied_name) const;
  Result<void> CheckUnique(const std::string& name) const;
  // Closes all nodes but the first `count`.
  void Truncate(size_t count);
  std::string Names() const;

  std::vector<Entry> entries_;  // Used before users.
};

}  // namespace farside::block
