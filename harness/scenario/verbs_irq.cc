// Verbs: interrupts.
#include <vector>

#include "harness/scenario/args.h"
#include "harness/scenario/irq_words.h"
#include "harness/scenario/session.h"
#include "harness/scenario/verb.h"

namespace farside::scenario {
namespace {

using vfio_user::IrqIndex;

constexpr uint64_t kMaxVectors = 2048;

constexpr Param kIndex = {.name = "index",
                          .type = Type::kWord,
                          .help = "the kind of interrupt",
                          .required = true,
                          .words = kIrqWords};
constexpr Param kStart = {"start", Type::kNumber, "the first vector", false, "0", UINT32_MAX};
constexpr Param kCount = {"count", Type::kNumber, "vectors", false, "1", UINT32_MAX};
constexpr Param kSelected = {
    "selected", Type::kBytes,
    "a byte for each vector, not 0 for those that are meant; default: all"};

constexpr Param kOnlyIndex[] = {kIndex, kDeviceParam};
constexpr Param kArm[] = {
    kIndex, kStart, {"count", Type::kNumber, "vectors", false, "1", kMaxVectors}, kDeviceParam};
constexpr Param kDisarm[] = {kIndex, kStart, kCount, kDeviceParam};
constexpr Param kAct[] = {kIndex, kStart, kCount, kSelected, kDeviceParam};
constexpr Param kExpect[] = {
    kIndex,
    {"vector", Type::kNumber, "which", false, "0", UINT32_MAX},
    {"count", Type::kNumber, "signals since the last irq.expect of the vector, whoever listened",
     false, "1"},
    {"at_least", Type::kBool, "more of them will do, too"},
    kDeviceParam};

constexpr Output kInfoOutputs[] = {
    {"count", "vectors that the device has"},
    {"flags", "1 eventfd, 2 maskable, 4 masks itself when it is signalled"},
};
constexpr Output kExpectOutputs[] = {{"count", "signals since the last irq.expect"}};

IrqIndex IndexOf(const Args& args) { return static_cast<IrqIndex>(args.Number("index")); }

Result<Outputs> Info(Session& session, const Args& args) {
  const auto link = session.FindClient(args);
  if (!link) return tl::unexpected(link.error());
  const auto info = (*link)->client->GetIrqInfo(IndexOf(args));
  if (!info) return tl::unexpected(info.error());
  return Outputs{{"count", uint64_t{info->count}}, {"flags", uint64_t{info->flags}}};
}

// A vector that a driver listens to is given to the driver again.
Result<int> EventfdFor(Link& link, VectorId vector) {
  IrqCollector* const irqs = link.irqs();
  if (irqs != nullptr && irqs->index() == vector.first && vector.second < irqs->count()) {
    return irqs->fd(vector.second);
  }
  VectorCount& count = link.vectors[vector];
  if (!count.eventfd) {
    auto made = MakeEventfd();
    if (!made) return tl::unexpected(made.error());
    count.eventfd = std::move(*made);
  }
  return count.eventfd.get();
}

Result<Outputs> Arm(Session& session, const Args& args) {
  const auto link = session.FindClient(args);
  if (!link) return tl::unexpected(link.error());
  const IrqIndex index = IndexOf(args);
  const auto start = args.Narrow<uint32_t>("start");
  std::vector<int> fds;
  for (uint32_t i = 0; i < args.Number("count"); ++i) {
    const auto fd = EventfdFor(**link, {index, start + i});
    if (!fd) return tl::unexpected(fd.error());
    fds.push_back(*fd);
  }
  const auto armed = (*link)->client->ArmIrqs(index, start, fds);
  if (!armed) return tl::unexpected(armed.error());
  return Outputs{};
}

Result<Outputs> Disarm(Session& session, const Args& args) {
  const auto link = session.FindClient(args);
  if (!link) return tl::unexpected(link.error());
  const auto disarmed = (*link)->client->DisarmIrqs(IndexOf(args), args.Narrow<uint32_t>("start"),
                                                    args.Narrow<uint32_t>("count"));
  if (!disarmed) return tl::unexpected(disarmed.error());
  return Outputs{};
}

Result<Outputs> Disable(Session& session, const Args& args) {
  const auto link = session.FindClient(args);
  if (!link) return tl::unexpected(link.error());
  const auto disabled = (*link)->client->DisableIrqs(IndexOf(args));
  if (!disabled) return tl::unexpected(disabled.error());
  return Outputs{};
}

template <uint32_t kAction>
Result<Outputs> Act(Session& session, const Args& args) {
  const auto link = session.FindClient(args);
  if (!link) return tl::unexpected(link.error());
  const ConstBytes bools = args.Has("selected") ? args.Data("selected") : ConstBytes();
  const uint32_t data = bools.empty() ? vfio_user::kIrqDataNone : vfio_user::kIrqDataBool;
  const auto done = (*link)->client->SetIrqs({.flags = data | kAction,
                                              .index = static_cast<uint32_t>(IndexOf(args)),
                                              .start = args.Narrow<uint32_t>("start"),
                                              .count = args.Narrow<uint32_t>("count")},
                                             bools, {});
  if (!done) return tl::unexpected(done.error());
  return Outputs{};
}

// A round trip: what the device did because of older accesses has happened.
Result<void> Fence(Link& link) {
  return link.client->GetInfo().map([](const auto&) {});
}

Result<Outputs> Expect(Session& session, const Args& args) {
  const auto found = session.FindClient(args);
  if (!found) return tl::unexpected(found.error());
  Link& link = **found;
  const VectorId vector{IndexOf(args), args.Narrow<uint32_t>("vector")};
  const auto fd = EventfdFor(link, vector);
  if (!fd) return tl::unexpected(fd.error());
  const uint64_t wanted = args.Number("count");
  uint64_t got = 0;
  for (bool more = true; more;) {
    got = session.CountIrqs(link, vector) - link.vectors[vector].expected;
    if (got >= wanted) break;
    const auto waited = link.client->WaitReadable(*fd, session.time_left_ns());
    if (!waited) return tl::unexpected(waited.error());
    more = *waited;
  }
  if (!args.Flag("at_least")) {
    if (const auto fenced = Fence(link); !fenced) return tl::unexpected(fenced.error());
    got = session.CountIrqs(link, vector) - link.vectors[vector].expected;
  }
  const bool met = args.Flag("at_least") ? got >= wanted : got == wanted;
  if (!met) {
    return Fail("{} vector {} was signalled {} times, expected {}{}", IrqWord(vector.first),
                vector.second, got, wanted, args.Flag("at_least") ? " or more" : "");
  }
  link.vectors[vector].expected += got;
  return Outputs{{"count", got}};
}

constexpr Verb kVerbs[] = {
    {"irq.info", "Asks how many interrupts of a kind there are.", Kind::kRaw, kOnlyIndex,
     kInfoOutputs, &Info},
    {"irq.arm", "Gives vectors an eventfd each.", Kind::kRaw, kArm, {}, &Arm},
    {"irq.disarm", "Takes the eventfds of vectors away.", Kind::kRaw, kDisarm, {}, &Disarm},
    {"irq.disable",
     "Takes the eventfds of all vectors of a kind away.",
     Kind::kRaw,
     kOnlyIndex,
     {},
     &Disable},
    {"irq.mask", "Masks vectors (INTx).", Kind::kRaw, kAct, {}, &Act<vfio_user::kIrqActionMask>},
    {"irq.unmask",
     "Unmasks vectors (INTx): one that is asserted is signalled.",
     Kind::kRaw,
     kAct,
     {},
     &Act<vfio_user::kIrqActionUnmask>},
    {"irq.trigger",
     "Has the device signal vectors.",
     Kind::kRaw,
     kAct,
     {},
     &Act<vfio_user::kIrqActionTrigger>},
    {"irq.expect", "Waits until a vector was signalled, and counts.", Kind::kRaw, kExpect,
     kExpectOutputs, &Expect},
};

}  // namespace

std::span<const Verb> IrqVerbs() { return kVerbs; }

}  // namespace farside::scenario
