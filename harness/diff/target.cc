#include "harness/diff/target.h"

#include <fmt/format.h>

#include <algorithm>
#include <string_view>
#include <utility>
#include <vector>

#include "base/options.h"
#include "harness/scenario/scenario.h"
#include "harness/scenario/served_process.h"
#include "protocol/vfio_user_client.h"

namespace farside::diff {
namespace {

using scenario::ServedProcess;
using vfio_user::VfioUserClient;

constexpr uint64_t kEndNs = 2'000'000'000;  // In which a process ends whose channel is gone.

class VfioUserConnection final : public Connection {
 public:
  VfioUserConnection(std::unique_ptr<ServedProcess> process, std::unique_ptr<DeviceClient> client)
      : process_(std::move(process)), client_(std::move(client)) {}

  DeviceClient& client() override { return *client_; }

  std::string Ending() override {
    if (!process_) return "closed its channel";
    const auto status = process_->child().Wait(kEndNs);
    const auto lines = process_->child().LastLines(4);
    return fmt::format(
        "{}: {}", status ? status->Text() : "closed its channel and still runs",
        lines.empty() ? "it printed nothing" : fmt::format("{}", fmt::join(lines, " | ")));
  }

  Result<void> Finish() override {
    client_.reset();
    return process_ ? process_->Finish() : Result<void>();
  }

 private:
  std::unique_ptr<ServedProcess> process_;  // Null: somebody else's.
  std::unique_ptr<DeviceClient> client_;
};

Result<std::unique_ptr<VfioUserClient>> Connect(const std::string& path, DmaHandler* handler) {
  return VfioUserClient::Connect(path, {}, handler);
}

class ProgramTarget final : public Target {
 public:
  ProgramTarget(std::vector<std::string> words, std::string bin_dir)
      : words_(std::move(words)), bin_dir_(std::move(bin_dir)) {
    const bool has_place = std::ranges::any_of(words_, [](const std::string& word) {
      return word.find(scenario::kSocketPlace) != std::string::npos;
    });
    if (!has_place) words_.push_back(fmt::format("--socket-path={}", scenario::kSocketPlace));
  }

  Result<std::unique_ptr<Connection>> Start(DmaHandler* handler) override {
    auto process =
        ServedProcess::Start(words_.front(), {words_.begin() + 1, words_.end()}, bin_dir_);
    if (!process) return tl::unexpected(process.error());
    auto client =
        (*process)->Connect([&](const std::string& path) { return Connect(path, handler); });
    if (!client) return tl::unexpected(client.error());
    return std::make_unique<VfioUserConnection>(std::move(*process), std::move(*client));
  }
  bool may_die() const override { return false; }

 private:
  std::vector<std::string> words_;
  const std::string bin_dir_;
};

class SocketTarget final : public Target {
 public:
  explicit SocketTarget(std::string path) : path_(std::move(path)) {}

  Result<std::unique_ptr<Connection>> Start(DmaHandler* handler) override {
    auto client = Connect(path_, handler);
    if (!client) return tl::unexpected(client.error());
    return std::make_unique<VfioUserConnection>(nullptr, std::move(*client));
  }
  bool may_die() const override { return false; }

 private:
  const std::string path_;
};

Result<std::vector<std::string>> SplitWords(std::string_view text) {
  std::vector<std::string> words;
  bool in_word = false;
  char quote = 0;
  for (const char c : text) {
    if (quote == 0 && (c == ' ' || c == '\t' || c == '\n')) {
      in_word = false;
      continue;
    }
    if (!std::exchange(in_word, true)) words.emplace_back();
    if (c == quote) {
      quote = 0;
    } else if (quote == 0 && (c == '\'' || c == '"')) {
      quote = c;
    } else {
      words.back() += c;
    }
  }
  if (quote != 0) return Fail("a quote is not closed in {}", Quote(text));
  return words;
}

}  // namespace

Result<std::unique_ptr<Target>> MakeTarget(const std::string& text, const std::string& bin_dir) {
  constexpr std::string_view kSocket = "socket:";
  if (text.starts_with(kSocket)) return std::make_unique<SocketTarget>(text.substr(kSocket.size()));
  auto words = SplitWords(text);
  if (!words) return tl::unexpected(words.error());
  if (words->empty()) return Fail("a target is a program with its arguments, or socket:PATH");
  return std::make_unique<ProgramTarget>(std::move(*words), bin_dir);
}

}  // namespace farside::diff
