#include "fuzz/cli/wire_scenario.h"

#include <fmt/format.h>
#include <sys/stat.h>

#include <algorithm>
#include <map>
#include <utility>
#include <vector>

#include "fuzz/cli/told.h"
#include "fuzz/host/host.h"
#include "fuzz/host/models.h"
#include "fuzz/host/wire_observer.h"
#include "fuzz/mutator/server_grammar.h"
#include "fuzz/targets/mpqemu_server_target.h"
#include "fuzz/targets/server_target.h"
#include "harness/scenario/value.h"
#include "protocol/mpqemu_codec.h"
#include "protocol/vfio_user.h"

namespace farside::fuzz {
namespace {

using nlohmann::json;

// Of the guest's memory, with its guards: so a file's offsets are the same.
struct Range {
  const char* name;
  uint64_t iova;
  uint64_t size;

  uint64_t begin() const { return iova - SharedWindow::kGuard; }
  uint64_t whole() const { return size + 2 * SharedWindow::kGuard; }
};
constexpr Range kRanges[] = {{"memory", Host::kBase, Host::kSize},
                             {"high", Host::kHighBase, Host::kHighSize}};

// Tells of each thing as the step that does it again.
class StepTeller : public WireObserver {
 public:
  void OnConnect() override {
    if (connected_before_) {
      for (const Range& range : kRanges) {
        Step("memory.write", {{"iova", Hex(range.iova)}, {"size", range.size}, {"fill", 0}});
      }
      StartAgain();
    }
    connected_before_ = true;
    Step("connect", {{"raw", true}});
  }

  void OnDisconnect(bool closed) override {
    if (closed) Step("channel.expect_closed", json::object());
    Step("disconnect", json::object());
    AwaitEnd(closed);
  }

  void OnSend(ConstBytes bytes, std::span<const int> fds) override {
    json step = {{"bytes", scenario::FormatHex(bytes)}};
    for (const int fd : fds) step["fds"].push_back(NameOf(fd));
    Step("frame.send", std::move(step));
  }

  void OnGuestWrite(uint64_t iova, ConstBytes data) override {
    if (data.empty()) return;
    Step("memory.write", {{"iova", Hex(iova)}, {"data", scenario::FormatHex(data)}});
  }

  void OnTruncate(int fd, uint64_t size) override {
    Step("fd.truncate", {{"name", NameOf(fd)}, {"size", size}});
  }

 protected:
  static void Step(const char* verb, json members) {
    Tell("step", json{{verb, std::move(members)}});
  }

 private:
  // Where one process serves one connection.
  virtual void StartAgain() {}
  virtual void AwaitEnd(bool /*closed*/) {}

  // Makes it where it has no name yet.
  std::string NameOf(int fd) {
    const auto known = names_.find(fd);
    if (known != names_.end()) return known->second;
    struct stat status {};
    fstat(fd, &status);
    const auto size = static_cast<uint64_t>(status.st_size);
    json made;
    for (const Range& range : kRanges) {
      if (S_ISREG(status.st_mode) && size == range.whole()) {
        made = {{"name", range.name}, {"kind", "memory"}, {"iova", Hex(range.begin())}};
      }
    }
    if (made.is_null()) {
      const std::string name = fmt::format("fd{}", names_.size());
      made = {{"name", name}, {"kind", S_ISFIFO(status.st_mode) ? "pipe" : "eventfd"}};
      if (S_ISREG(status.st_mode)) made = {{"name", name}, {"kind", "memfd"}, {"size", size}};
    }
    Step("fd.make", made);
    return names_[fd] = made["name"];
  }

  bool connected_before_ = false;
  std::map<int, std::string> names_;
};

class VfioUserTeller final : public StepTeller {
 public:
  // A request's first 16 bytes say where and how much; what the device writes is its own affair.
  void OnReceive(ConstBytes bytes, ConstBytes payload) override {
    vfio_user::Header header;
    Copy(AsWritableBytes(header), bytes);
    const bool reply = (header.flags & vfio_user::kFlagTypeMask) == vfio_user::kFlagTypeReply;
    json step = {{"command", header.command}, {"id", header.message_id}, {"size", header.size}};
    if (header.error != 0) step["errno"] = header.error;
    if (!reply) {
      step["request"] = true;
      step["payload"] = scenario::FormatHex(
          payload.first(std::min(payload.size(), sizeof(vfio_user::DmaAccess))));
    }
    Step("frame.expect", std::move(step));
  }
};

class MpqemuTeller final : public StepTeller {
 public:
  void OnReceive(ConstBytes, ConstBytes) override { Step("frame.expect", json::object()); }

  void OnSend(ConstBytes bytes, std::span<const int> fds) override {
    StepTeller::OnSend(bytes, fds);
    begun_.insert(begun_.end(), bytes.begin(), bytes.end());
    mpqemu::Header header;
    while (begun_.size() >= sizeof header) {
      Copy(AsWritableBytes(header), ConstBytes(begun_).first(sizeof header));
      const uint64_t size = mpqemu::FrameSize(header);
      if (begun_.size() < size) return;
      begun_.erase(begun_.begin(), begun_.begin() + static_cast<ptrdiff_t>(size));
    }
  }

 private:
  void StartAgain() override { Step("process.start", json::object()); }
  // One that was told nonsense, or half a message, says so with its status.
  void AwaitEnd(bool closed) override {
    Step("process.wait", {{"status", closed || !begun_.empty() ? 1 : 0}});
    begun_.clear();
  }

  std::vector<std::byte> begun_;  // Of a message that is not whole yet.
};

}  // namespace

json DeviceArgs(bool lsi, const std::string& id) {
  json args = {"-blockdev", "driver=memory,node-name=d0,size=64K"};
  const auto add = [&](const char* option, std::string value) {
    args.push_back(option);
    args.push_back(std::move(value));
  };
  if (!lsi) {
    add("-device",
        fmt::format("nvme,id={},drive=d0,serial=fuzz,max_ioqpairs=4,msix_qsize=5,mdts=4", id));
    return args;
  }
  add("-blockdev", "driver=memory,node-name=ro1,size=64K,read-only=on");
  add("-device", fmt::format("lsi53c895a,id={},quantum=64", id));
  add("-device", fmt::format("scsi-hd,drive=d0,bus={}.0,scsi-id=0,wwn={:#x}", id, kLsiDiskWwn));
  add("-device", fmt::format("scsi-cd,drive=ro1,bus={}.0,scsi-id=1", id));
  return args;
}

json WireScenario(std::string_view target, const std::string& name, const Session& session) {
  const bool mpqemu = target == "mpqemu_server";
  const auto told = Listen([&] {
    if (mpqemu) {
      MpqemuTeller teller;
      MpqemuServerTarget server;
      server.proxy().set_observer(&teller);
      return server.Run(session);
    }
    VfioUserTeller teller;
    ServerTarget server(ServerGrammar());
    server.client().set_observer(&teller);
    server.Run(session);
  });

  json args = DeviceArgs(mpqemu, "dev");
  args.push_back("-object");
  json device = {{"id", "dev"}, {"process", "disk"}, {"connect", false}};
  if (mpqemu) {
    device["protocol"] = "mpqemu";
    args.push_back("x-remote-object,id=robj1,devid=dev,fd=%FD%");
  } else {
    device["socket"] = "fuzzed.sock";
    args.push_back("x-vfio-user-server,id=server,type=unix,path=fuzzed.sock,device=dev");
  }
  json memory = json::array();
  for (const Range& range : kRanges) {
    memory.push_back({{"iova", Hex(range.begin())}, {"size", Hex(range.whole())}});
  }
  json steps = json::array();
  for (const json& line : told) {
    if (line.contains("step")) steps.push_back(line["step"]);
  }
  std::string text = "What a fuzzer found, as the bytes that went over the socket.";
  const auto on_disk = [](const Event& event) { return event.kind == Kind::kDisk; };
  if (std::ranges::any_of(session.events, on_disk)) {
    text += " Left out, for there is no verb for it: disk.";
  }
  json document = {
      {"name", fmt::format("fuzz.{}.{}", target, name)},
      {"description", text},
      {"processes", {{{"id", "disk"}, {"exec", "disk-proc"}, {"args", std::move(args)}}}},
      {"devices", json::array({std::move(device)})},
      {"memory", std::move(memory)},
      {"irqs_vary", "nothing waits for the device"},
      {"steps", std::move(steps)}};
  if (!mpqemu) {
    document["modes"] = {"fd"};
    document["reason"] = "the bytes name files";
  }
  return document;
}

}  // namespace farside::fuzz
