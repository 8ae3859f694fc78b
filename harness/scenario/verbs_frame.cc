// Verbs: connections, and messages as bytes.
#include <algorithm>

#include "base/options.h"
#include "harness/scenario/args.h"
#include "harness/scenario/session.h"
#include "harness/scenario/verb.h"

namespace farside::scenario {
namespace {

using vfio_user::Frame;
using vfio_user::Header;

// By vfio_user::Command.
constexpr std::string_view kCommandWords[] = {"",
                                              "VERSION",
                                              "DMA_MAP",
                                              "DMA_UNMAP",
                                              "DEVICE_GET_INFO",
                                              "DEVICE_GET_REGION_INFO",
                                              "DEVICE_GET_REGION_IO_FDS",
                                              "DEVICE_GET_IRQ_INFO",
                                              "DEVICE_SET_IRQS",
                                              "REGION_READ",
                                              "REGION_WRITE",
                                              "DMA_READ",
                                              "DMA_WRITE",
                                              "DEVICE_RESET",
                                              "",
                                              "REGION_WRITE_MULTI",
                                              "DEVICE_FEATURE",
                                              "MIG_DATA_READ",
                                              "MIG_DATA_WRITE"};
static_assert(std::size(kCommandWords) == 19);

// By mpqemu::Command.
constexpr std::string_view kMpqemuWords[] = {"SYNC_SYSMEM", "RET",         "PCI_CFGWRITE",
                                             "PCI_CFGREAD", "BAR_WRITE",   "BAR_READ",
                                             "SET_IRQFD",   "DEVICE_RESET"};
static_assert(std::size(kMpqemuWords) == mpqemu::kCommandCount);

constexpr Param kConnect[] = {
    kDeviceParam,
    {"raw", Type::kBool,
     "only the socket, for frame.send and frame.expect: no VERSION, no windows, nothing"},
    {"map", Type::kBool, "map the guest's memory", false, "on"}};
constexpr Param kOnlyDevice[] = {kDeviceParam};

constexpr Param kCommand = {.name = "command",
                            .type = Type::kCode,
                            .help = "DMA_MAP or any number",
                            .max = UINT16_MAX,
                            .words = kCommandWords};
constexpr Param kMpqemuCommand = {.name = "mpqemu",
                                  .type = Type::kCode,
                                  .help = "instead of `command` where the device speaks mpqemu",
                                  .max = UINT32_MAX,
                                  .words = kMpqemuWords};
constexpr Param kSend[] = {
    kCommand,
    kMpqemuCommand,
    {"id", Type::kNumber, "message id; default: 1", false, {}, UINT16_MAX},
    {"payload", Type::kBytes, "what follows the header"},
    {"reply", Type::kBool, "it is a reply"},
    {"no_reply", Type::kBool, "it wants no reply"},
    {"errno", Type::kErrno, "it is a reply that reports this errno"},
    {"flags",
     Type::kNumber,
     "the header's flags, instead of what the three above make",
     false,
     {},
     UINT32_MAX},
    {"size", Type::kNumber,
     "what the header claims: with vfio-user of the whole message, with mpqemu of its payload; "
     "default: what is right"},
    {"bytes", Type::kBytes, "these bytes, instead of a message"},
    {"fds", Type::kTexts,
     "names of fd.make; they go with the first byte. The same one may come "
     "twice"},
    {"hold", Type::kBool, "send it together with the next one"},
    {"split", Type::kNumbers,
     "offsets, in all that is sent now, where another send begins; behind the last: nothing"},
    kDeviceParam};
constexpr Param kExpect[] = {
    kCommand,
    kMpqemuCommand,
    {"id", Type::kNumber, "message id", false, {}, UINT16_MAX},
    {"request", Type::kBool, "it is a command of the server; default: a reply"},
    {"errno", Type::kErrno, "what it reports; default: success"},
    {"size", Type::kNumber, "of the whole message", false, {}, UINT32_MAX},
    {"payload", Type::kBytes, "what its payload begins with"},
    {"at", Type::kNumber, "where in the payload the output `value` is", false, "0", UINT32_MAX},
    {"width", Type::kNumber, "and how many bytes it has", false, "4", 8},
    kDeviceParam};

constexpr Output kExpectOutputs[] = {
    {"value", "a number in the payload, little-endian"},
    {"id", "the message id; 0 with mpqemu, which has none"},
    {"size", "bytes of the whole message"},
    {"fds", "how many came with it"},
    {"payload", "as hexadecimal digits", true},
};
constexpr Output kClosedOutputs[] = {{"messages", "how many came before the end"}};

Result<Outputs> Connect(Session& session, const Args& args) {
  const auto link = session.FindLink(args);
  if (!link) return tl::unexpected(link.error());
  const auto connected =
      session.Connect(**link, {.raw = args.Flag("raw"), .map = args.Flag("map")});
  if (!connected) return tl::unexpected(connected.error());
  return Outputs{};
}

Result<Outputs> Disconnect(Session& session, const Args& args) {
  const auto link = session.FindLink(args);
  if (!link) return tl::unexpected(link.error());
  session.Disconnect(**link);
  return Outputs{};
}

// Whether what is given fits the device's protocol.
Result<void> CheckProtocol(const Link& link, const Args& args) {
  const bool mpqemu = link.spec.protocol == Protocol::kMpqemu;
  if (!mpqemu && args.Has("mpqemu")) {
    return Fail("device {} speaks vfio-user: name a command of that", link.spec.id);
  }
  if (!mpqemu) return {};
  if (args.Has("command")) {
    return Fail("device {} speaks mpqemu, whose messages have no such command: name it in `mpqemu`",
                link.spec.id);
  }
  for (const char* const name : {"id", "reply", "no_reply", "errno", "flags", "request"}) {
    if (args.Has(name)) {
      return Fail("device {} speaks mpqemu, whose messages have no {}", link.spec.id, name);
    }
  }
  return {};
}

template <typename AnyHeader>
std::vector<std::byte> Join(const AnyHeader& header, ConstBytes payload) {
  std::vector<std::byte> out(sizeof header + payload.size());
  Copy(out, AsBytes(header));
  Copy(Bytes(out).subspan(sizeof header), payload);
  return out;
}

// The bytes that a frame.send stands for.
Result<std::vector<std::byte>> Compose(const Args& args) {
  if (args.Has("bytes") == (args.Has("command") || args.Has("mpqemu"))) {
    return Fail("give either a command or bytes, what is to be sent");
  }
  if (args.Has("bytes")) {
    return std::vector<std::byte>(args.Data("bytes").begin(), args.Data("bytes").end());
  }
  const ConstBytes payload = args.Has("payload") ? args.Data("payload") : ConstBytes();
  if (args.Has("mpqemu")) {
    return Join(mpqemu::Header{.command = static_cast<int32_t>(args.Narrow<uint32_t>("mpqemu")),
                               .size = args.Number("size", payload.size())},
                payload);
  }
  if (args.Number("size", 0) > UINT32_MAX) return Fail("size: a header has 32 bits for it");
  const bool reply = args.Flag("reply") || args.Has("errno");
  uint32_t flags = reply ? vfio_user::kFlagTypeReply : vfio_user::kFlagTypeCommand;
  if (args.Has("errno")) flags |= vfio_user::kFlagError;
  if (args.Flag("no_reply")) flags |= vfio_user::kFlagNoReply;
  const Header header{
      .message_id = static_cast<uint16_t>(args.Number("id", 1)),
      .command = args.Narrow<uint16_t>("command"),
      .size = static_cast<uint32_t>(args.Number("size", sizeof(Header) + payload.size())),
      .flags = static_cast<uint32_t>(args.Number("flags", flags)),
      .error = static_cast<uint32_t>(args.Number("errno", 0))};
  return Join(header, payload);
}

Result<std::vector<int>> FindFds(Session& session, const Args& args) {
  std::vector<int> fds;
  for (const std::string& name : args.Texts("fds")) {
    const auto fd = session.FindFd(name);
    if (!fd) return tl::unexpected(fd.error());
    fds.push_back(*fd);
  }
  if (fds.size() > kMaxPassedFds) {
    return Fail("{} fds: the kernel passes {} at once", fds.size(), kMaxPassedFds);
  }
  return fds;
}

// What is held goes first, and what has fds begins a send of its own.
Result<Outputs> Send(Session& session, const Args& args) {
  const auto link = session.FindRaw(args);
  if (!link) return tl::unexpected(link.error());
  if (const auto fits = CheckProtocol(**link, args); !fits) return tl::unexpected(fits.error());
  const auto bytes = Compose(args);
  if (!bytes) return tl::unexpected(bytes.error());
  const auto fds = FindFds(session, args);
  if (!fds) return tl::unexpected(fds.error());
  std::vector<std::byte>& all = (*link)->held_bytes;
  const size_t begin = all.size();
  const bool hold = args.Flag("hold");
  if (hold && !fds->empty()) return Fail("what has fds can't be held: hold what goes before it");
  all.insert(all.end(), bytes->begin(), bytes->end());
  if (hold) return Outputs{};

  std::vector<uint64_t> cuts = args.Numbers("split");
  if (!fds->empty()) cuts.push_back(begin);
  cuts.push_back(all.size());
  std::ranges::sort(cuts);
  const std::vector<std::byte> sending = std::exchange(all, {});
  size_t at = 0;
  for (const uint64_t cut : cuts) {
    if (cut <= at || cut > sending.size()) continue;
    const auto sent = (*link)->raw->Send(
        ConstBytes(sending).subspan(at, cut - at),
        at == begin ? std::span<const int>(*fds) : std::span<const int>(), session.time_left_ns());
    if (!sent) return tl::unexpected(sent.error());
    at = cut;
  }
  return Outputs{};
}

std::string_view NameOf(uint16_t command) {
  const std::string_view name = vfio_user::CommandName(vfio_user::Command{command});
  return name.empty() ? "no known command" : name;
}

std::string Describe(const Frame& frame) {
  return fmt::format("a {} of {} ({}), id {:#x}, errno {}, {} bytes",
                     frame.is_reply() ? "reply" : "request", frame.header.command,
                     NameOf(frame.header.command), frame.header.message_id,
                     ErrnoName(frame.header.error), frame.header.size);
}

std::string Describe(const mpqemu::Frame& frame) {
  return fmt::format("a {} with {} bytes of payload", mpqemu::CommandName(frame.command()),
                     frame.payload.size());
}

uint64_t IdOf(const Frame& frame) { return frame.header.message_id; }
uint64_t IdOf(const mpqemu::Frame&) { return 0; }

std::string PayloadMismatch(ConstBytes payload, const Args& args) {
  if (!args.Has("payload")) return {};
  const ConstBytes wanted = args.Data("payload");
  const bool equal =
      payload.size() >= wanted.size() && std::ranges::equal(payload.first(wanted.size()), wanted);
  if (equal) return {};
  return fmt::format("a payload that begins with {}; it is {}", FormatHex(wanted),
                     FormatHex(payload.first(std::min(payload.size(), wanted.size() + 16))));
}

// Empty if `frame` is what `args` wants; else what it should have been.
std::string Mismatch(const mpqemu::Frame& frame, const Args& args) {
  const uint64_t command = args.Number("mpqemu", static_cast<uint64_t>(mpqemu::Command::kRet));
  if (static_cast<uint32_t>(frame.header.command) != command) {
    return fmt::format("a {}", mpqemu::CommandName(mpqemu::Command{static_cast<int32_t>(command)}));
  }
  const uint64_t size = sizeof frame.header + frame.payload.size();
  if (args.Has("size") && size != args.Number("size")) {
    return fmt::format("{} bytes", args.Number("size"));
  }
  return PayloadMismatch(frame.payload, args);
}
std::string Mismatch(const Frame& frame, const Args& args) {
  const Header& header = frame.header;
  const bool request = args.Flag("request");
  if (frame.is_reply() == request) return request ? "a request" : "a reply";
  if (args.Has("command") && header.command != args.Number("command")) {
    return fmt::format("command {} ({})", args.Number("command"),
                       NameOf(args.Narrow<uint16_t>("command")));
  }
  if (args.Has("id") && header.message_id != args.Number("id")) {
    return fmt::format("id {:#x}", args.Number("id"));
  }
  const uint64_t error = args.Number("errno", 0);
  const bool has_flag = (header.flags & vfio_user::kFlagError) != 0;
  if (header.error != error || has_flag != (error != 0)) {
    return fmt::format("errno {}", ErrnoName(error));
  }
  if (args.Has("size") && header.size != args.Number("size")) {
    return fmt::format("{} bytes", args.Number("size"));
  }
  return PayloadMismatch(frame.payload, args);
}

Result<Outputs> Expect(Session& session, const Args& args) {
  const auto link = session.FindRaw(args);
  if (!link) return tl::unexpected(link.error());
  if (const auto fits = CheckProtocol(**link, args); !fits) return tl::unexpected(fits.error());
  const auto message = (*link)->raw->Receive(session.time_left_ns());
  if (!message) return tl::unexpected(message.error());
  const auto look = [&](const auto& frame) -> Result<Outputs> {
    const std::string wanted = Mismatch(frame, args);
    if (!wanted.empty()) return Fail("the server sent {}, expected {}", Describe(frame), wanted);
    const ConstBytes payload = frame.payload;
    const size_t at = std::min<size_t>(args.Number("at"), payload.size());
    const size_t width = std::min<size_t>(args.Number("width"), payload.size() - at);
    return Outputs{{"value", LoadLePartial(payload.subspan(at, width))},
                   {"id", IdOf(frame)},
                   {"size", uint64_t{sizeof frame.header + payload.size()}},
                   {"fds", uint64_t{frame.fds.size()}},
                   {"payload", FormatHex(payload)}};
  };
  return std::visit(look, *message);
}

Result<Outputs> ExpectClosed(Session& session, const Args& args) {
  const auto link = session.FindLink(args);
  if (!link) return tl::unexpected(link.error());
  uint64_t messages = 0;
  Error end;
  if ((*link)->raw) {
    for (;;) {
      const auto frame = (*link)->raw->Receive(session.time_left_ns());
      if (!frame) {
        end = frame.error();
        break;
      }
      ++messages;
    }
  } else {
    const auto client = session.FindClient(args);
    if (!client) return tl::unexpected(client.error());
    const auto waited = (*client)->client->WaitReadable(-1, session.time_left_ns());
    end = waited ? Error{"nothing came from the server", ETIMEDOUT} : waited.error();
  }
  if (end.code != EPIPE) {
    return Fail("the channel is open, expected the server to close it: {}", end.message);
  }
  return Outputs{{"messages", messages}};
}

constexpr Verb kVerbs[] = {
    {"connect", "Connects to a device.", Kind::kRaw, kConnect, {}, &Connect},
    {"disconnect", "Closes the connection to a device.", Kind::kRaw, kOnlyDevice, {}, &Disconnect},
    {"frame.send",
     "Sends a message, or bytes that are none, over a raw connection.",
     Kind::kRaw,
     kSend,
     {},
     &Send},
    {"frame.expect", "Receives a message over a raw connection.", Kind::kRaw, kExpect,
     kExpectOutputs, &Expect},
    {"channel.expect_closed",
     "Waits until the server closes the channel. Messages before that are dropped.", Kind::kRaw,
     kOnlyDevice, kClosedOutputs, &ExpectClosed},
};

}  // namespace

std::span<const Verb> FrameVerbs() { return kVerbs; }

}  // namespace farside::scenario
