#include "fuzz/targets/block_target.h"

#include <algorithm>
#include <array>
#include <string_view>
#include <utility>

#include "base/check.h"
#include "base/options.h"
#include "base/random.h"
#include "fuzz/host/oracle.h"
#include "process/options.h"

namespace farside::fuzz {
namespace {

using block::IoStatus;

// What a read finds in memory that nobody fills.
constexpr uint8_t kUntouched = 0xa5;

Task<void> Keep(Task<IoStatus> task, std::optional<IoStatus>* status) {
  *status = co_await std::move(task);
}

// Up to three parts of `memory`, cut where `split` says. Empty ones are lawful.
std::array<iovec, 3> Cut(Bytes memory, uint64_t split) {
  const size_t first = memory.empty() ? 0 : split % (memory.size() + 1);
  const size_t left = memory.size() - first;
  const size_t second = left == 0 ? 0 : split / 7 % (left + 1);
  return {{{memory.data(), first},
           {memory.data() + first, second},
           {memory.data() + first + second, left - second}}};
}

// The content of a generated disk, as block/generated.h lays it down for all time.
std::byte GeneratedByte(uint64_t seed, uint64_t at) {
  const uint64_t word = Mix64(Mix64(Mix64(seed) ^ at / 512) + at % 512 / 8);
  return static_cast<std::byte>(word >> at % 8 * 8);
}

bool NamesFile(const nlohmann::json& options) {
  if (!options.is_object()) return false;
  const auto driver = options.find("driver");
  if (driver != options.end() && *driver == "file") return true;
  const auto file = options.find("file");
  return file != options.end() && NamesFile(*file);
}

}  // namespace

BlockTarget::BlockTarget()
    : loop_(std::move(*EpollLoop::Create(clock_))), frames_(std::in_place, loop_->frames()) {}

void BlockTarget::Run(ConstBytes input) {
  Decode(input, &session_);
  graph_.emplace();
  nodes_.clear();
  const Grammar& grammar = BlockGrammar();
  if (session_.ready()) {
    Store store;
    std::vector<Event> prologue;
    grammar.AddPrologue(store, &prologue);
    for (const Event& event : prologue) Execute(event);
  }
  for (size_t i = 0; i < session_.events.size(); ++i) {
    Tell(grammar, i, session_.events[i]);
    Execute(session_.events[i]);
  }
  // All that was written is still there at the end.
  for (Node& node : nodes_) {
    const uint64_t size = node.shadow.size();
    for (uint64_t at = 0; at < size; at += 64 << 10) {
      Read(node, at, std::min<uint64_t>(size - at, 64 << 10), at);
    }
  }
  if (!Await(graph_->FlushAll()).ok()) Violation("block-status", "flushing all nodes fails");
  graph_.reset();
  ++tally_.sessions;
}

void BlockTarget::Execute(const Event& event) {
  switch (event.kind) {
    case Kind::kFrame:
      return AddNode(event.data);
    case Kind::kReset:
      graph_.emplace();
      nodes_.clear();
      return;
    case Kind::kRead:
      if (Node* node = Use(event.what)) Read(*node, event.at, LengthOf(event.size), event.at);
      return;
    case Kind::kWrite:
      if (Node* node = Use(event.what)) {
        std::vector<std::byte> data(LengthOf(event.size));
        for (size_t i = 0; i < data.size(); ++i) {
          data[i] = static_cast<std::byte>(event.value + i / 509);
        }
        Write(*node, event.at, data, (event.value & 1) != 0, event.value);
      }
      return;
    case Kind::kWriteData:
      if (Node* node = Use(event.what)) Write(*node, event.at, event.data, false, event.at);
      return;
    case Kind::kDisk:
      if (Node* node = Use(event.what / 16)) {
        Act(*node, event.what % 16, event.value >> 20, event.value & 0xf'ffff);
      }
      return;
    default:
      return;  // Nothing to a disk.
  }
}

void BlockTarget::AddNode(ConstBytes text) {
  if (nodes_.size() == kMaxNodes) return;
  const auto options = ParseOptionValue(
      std::string_view(reinterpret_cast<const char*>(text.data()), text.size()), "driver");
  if (!options || NamesFile(*options)) return;
  // Looked at first: what it stands on may be unknown to us, and then to the graph, too.
  const auto content = ContentOf(*options);
  if (!graph_->Add(*options, *loop_)) return;
  if (!content) Violation("block-data", "a node stands on one that is not there");
  OptionReader reader("a node", *options);
  nodes_.push_back({.name = reader.String("node-name", ""), .content = *content});
}

std::optional<BlockTarget::Content> BlockTarget::ContentOf(const nlohmann::json& options) const {
  OptionReader reader("a node", options);
  const std::string driver = reader.String("driver", "");
  if (driver == "memory") return Content{};
  if (driver == "null-co") return Content{.kind = Content::Kind::kNothing};
  if (driver == "generated") {
    return Content{.kind = Content::Kind::kGenerated,
                   .seed = reader.Number("seed", 0, 0, UINT64_MAX)};
  }
  const nlohmann::json* file = reader.Value("file");
  if (driver != "raw" || file == nullptr) return std::nullopt;
  std::optional<Content> content;
  if (file->is_object()) content = ContentOf(*file);
  if (file->is_string()) {
    const auto found = std::ranges::find(nodes_, file->get<std::string>(), &Node::name);
    if (found != nodes_.end()) content = found->content;
  }
  if (content) content->offset += reader.Size("offset", 0);
  return content;
}

BlockTarget::Node* BlockTarget::Use(size_t index) {
  if (nodes_.empty()) return nullptr;
  Node& node = nodes_[index % nodes_.size()];
  if (node.device != nullptr) return &node;
  const auto claimed = graph_->Claim(node.name, "the session");
  if (!claimed) return nullptr;
  node.device = *claimed;
  if (node.content.kind == Content::Kind::kNothing) return &node;
  node.shadow.resize(std::min(node.device->size(), kMaxShadow));
  if (node.content.kind == Content::Kind::kGenerated) {
    for (uint64_t at = 0; at < node.shadow.size(); ++at) {
      node.shadow[at] = GeneratedByte(node.content.seed, node.content.offset + at);
    }
  }
  return &node;
}

IoStatus BlockTarget::Await(Task<IoStatus> task) {
  std::optional<IoStatus> status;
  scope_.Spawn(Keep(std::move(task), &status));
  while (!status) loop_->RunOnce(1);
  return *status;
}

void BlockTarget::CheckStatus(const Node& node, const char* what, uint64_t offset, uint64_t length,
                              bool writes, IoStatus status) const {
  const bool possible =
      InRange(offset, length, node.device->size()) && !(writes && node.device->read_only());
  if (possible == status.ok()) return;
  Violation("block-status", "{} of {} bytes at {:#x} of {}, which has {}{}, ends with {}", what,
            length, offset, node.name, node.device->size(),
            node.device->read_only() ? " and is read-only" : "", status.error);
}

void BlockTarget::Read(Node& node, uint64_t offset, uint64_t length, uint64_t split) {
  std::vector<std::byte> memory(length, std::byte{kUntouched});
  const auto parts = Cut(memory, split);
  const IoStatus status = Await(node.device->Read(offset, parts));
  CheckStatus(node, "a read", offset, length, false, status);
  if (!status.ok() || offset >= node.shadow.size()) return;
  const size_t known = std::min<uint64_t>(length, node.shadow.size() - offset);
  const auto expected = ConstBytes(node.shadow).subspan(offset, known);
  const auto wrong = std::ranges::mismatch(ConstBytes(memory).first(known), expected);
  if (wrong.in2 == expected.end()) return;
  const auto at = static_cast<uint64_t>(wrong.in2 - expected.begin());
  Violation("block-data", "byte {:#x} of {} reads {:#04x} and was {:#04x}", offset + at, node.name,
            std::to_integer<uint8_t>(memory[at]), std::to_integer<uint8_t>(expected[at]));
}

void BlockTarget::Write(Node& node, uint64_t offset, ConstBytes data, bool fua, uint64_t split) {
  // A copy of just the size: a sanitizer sees who reads past it.
  std::vector<std::byte> memory(data.begin(), data.end());
  const auto parts = Cut(memory, split);
  const IoStatus status = Await(node.device->Write(offset, parts, fua));
  CheckStatus(node, "a write", offset, data.size(), true, status);
  if (!status.ok() || offset >= node.shadow.size()) return;
  const size_t known = std::min<uint64_t>(data.size(), node.shadow.size() - offset);
  Copy(Bytes(node.shadow).subspan(offset, known), data.first(known));
}

void BlockTarget::Act(Node& node, uint8_t action, uint64_t offset, uint64_t length) {
  const bool discards = action % 4 == 3;
  if (action % 4 == 0) {
    if (!Await(node.device->Flush()).ok()) Violation("block-status", "a flush fails");
    return;
  }
  const IoStatus status =
      Await(discards ? node.device->Discard(offset, length)
                     : node.device->WriteZeroes(offset, length, action % 4 == 2));
  CheckStatus(node, discards ? "a discard" : "zeroing", offset, length, true, status);
  if (!status.ok() || offset >= node.shadow.size()) return;
  if (discards && node.device->limits().discard_granularity == 0) return;  // Nothing was done.
  const size_t known = std::min<uint64_t>(length, node.shadow.size() - offset);
  Fill(Bytes(node.shadow).subspan(offset, known), 0);
}

std::unique_ptr<Target> MakeBlockTarget() { return std::make_unique<BlockTarget>(); }

}  // namespace farside::fuzz
