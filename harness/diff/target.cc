#include "harness/diff/target.h"

#include <fmt/format.h>

#include <algorithm>
#include <string_view>
#include <utility>
#include <vector>

#include "base/options.h"
#include "base/words.h"
#include "harness/scenario/remote_process.h"
#include "harness/scenario/scenario.h"
#include "harness/scenario/served_process.h"
#include "protocol/mpqemu_client.h"
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

class MpqemuConnection final : public Connection {
 public:
  MpqemuConnection(std::unique_ptr<scenario::Child> child, std::unique_ptr<DeviceClient> client)
      : child_(std::move(child)), client_(std::move(client)) {}

  DeviceClient& client() override { return *client_; }
  std::string Ending() override {
    const auto status = child_->Wait(kEndNs);
    const auto lines = child_->LastLines(4);
    return fmt::format(
        "{}: {}", status ? status->Text() : "closed its channel and still runs",
        lines.empty() ? "it printed nothing" : fmt::format("{}", fmt::join(lines, " | ")));
  }
  Result<void> Finish() override {
    client_.reset();  // The remote ends when its channel does.
    if (child_->Wait(kEndNs)) return {};
    return Fail("the remote did not end when its channel was closed");
  }

 private:
  std::unique_ptr<scenario::Child> child_;
  std::unique_ptr<DeviceClient> client_;
};

// Of the programs that serve mpqemu.
struct Remote {
  bool may_die = false;
  uint64_t settle_ns = 0;  // It undoes meanwhile what it was told.
};
constexpr Remote kOurs{};
// A guest may end it, and its first reset comes when it serves already.
constexpr Remote kQemu{.may_die = true, .settle_ns = scenario::kQemuSettleNs};

// A server of mpqemu; %FD% in its arguments is its end of the channel.
class MpqemuTarget final : public Target {
 public:
  MpqemuTarget(const Remote& remote, std::vector<std::string> words, std::string bin_dir)
      : remote_(remote), words_(std::move(words)), bin_dir_(std::move(bin_dir)) {}

  Result<std::unique_ptr<Connection>> Start(DmaHandler*) override {
    const std::vector<std::string> args(words_.begin() + 1, words_.end());
    auto process = scenario::RemoteProcess::Start(words_.front(), words_.front(), args, bin_dir_);
    if (!process) return tl::unexpected(process.error());
    mpqemu::ClientOptions client_options;
    client_options.settle_ns = remote_.settle_ns;
    client_options.place_bars = false;  // Side does.
    auto client = mpqemu::MpqemuClient::Attach(std::move(process->socket), client_options);
    if (!client) return tl::unexpected(client.error());
    return std::make_unique<MpqemuConnection>(std::move(process->child), std::move(*client));
  }
  bool may_die() const override { return remote_.may_die; }
  uint32_t config_size() const override { return 256; }

 private:
  const Remote& remote_;
  std::vector<std::string> words_;
  const std::string bin_dir_;
};

Result<std::unique_ptr<Target>> MakeMpqemuTarget(const Remote& remote, const std::string& text,
                                                 const std::string& bin_dir) {
  auto words = SplitWords(text);
  if (!words) return tl::unexpected(words.error());
  if (words->empty() || text.find(scenario::kFdPlace) == std::string::npos) {
    return Fail("a target of qemu: or mpqemu: is PROGRAM ARGS... with {} in ARGS",
                scenario::kFdPlace);
  }
  return std::make_unique<MpqemuTarget>(remote, std::move(*words), bin_dir);
}

}  // namespace

Result<std::unique_ptr<Target>> MakeTarget(const std::string& text, const std::string& bin_dir) {
  constexpr std::string_view kSocketPrefix = "socket:";
  if (text.starts_with(kSocketPrefix)) {
    return std::make_unique<SocketTarget>(text.substr(kSocketPrefix.size()));
  }
  for (const auto& [prefix, remote] :
       {std::pair<std::string_view, const Remote*>("qemu:", &kQemu), {"mpqemu:", &kOurs}}) {
    if (text.starts_with(prefix)) {
      return MakeMpqemuTarget(*remote, text.substr(prefix.size()), bin_dir);
    }
  }
  auto words = SplitWords(text);
  if (!words) return tl::unexpected(words.error());
  if (words->empty()) return Fail("a target is a program with its arguments, or socket:PATH");
  return std::make_unique<ProgramTarget>(std::move(*words), bin_dir);
}

}  // namespace farside::diff
