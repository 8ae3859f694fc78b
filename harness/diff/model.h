// Model: what a comparison knows of a device model: its registers, what moves by itself, and a
// guest's work for it.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/random.h"
#include "devices/core/register_block.h"
#include "harness/diff/event.h"
#include "harness/host/guest_memory.h"

namespace farside::diff {

// The registers of one region.
struct RegisterSpace {
  uint32_t region = 0;
  uint64_t size = 0;        // In bytes: accesses stay inside.
  uint32_t max_access = 8;  // In bytes.
  std::span<const RegisterDef> rows;
  uint64_t repeats = 0;  // The rows come again every so many bytes; 0: they don't.
};

// A thing that the device writes to guest memory and that rows of a lawful file may name.
struct MemoryField {
  std::string_view name;
  uint64_t iova = 0;
  uint64_t size = 0;  // In bytes.
};

// How a read of a place may be taken.
enum class ReadKind {
  kFixed,     // The same as long as nothing is written: may be asked for together with others.
  kVolatile,  // The device moves it: asked for alone, and again if the sides differ.
  kOnce,      // The read changes it: asked for alone, once.
};

// How long a device is busy with an event.
enum class Work {
  kNone,
  kQuick,  // Until the next access is answered; interrupts may have changed.
  kLong,   // Until nothing moves any more: it may reach memory.
};

// What a guest's driver does with the device, in pieces. The same seed gives the same events.
class Workload {
 public:
  virtual ~Workload() = default;
  // Adds the next piece.
  virtual void Next(std::vector<Event>* out) = 0;
  // Another event is about to go to the device: adds what a driver does first.
  virtual void Prepare(const Event&, std::vector<Event>*) {}
  // Another event went to the device in between.
  virtual void OnOther(const Event& event) = 0;
};

class Lawful;

class Model {
 public:
  virtual ~Model() = default;

  virtual std::string_view name() const = 0;
  // Configuration space first: the part whose layout the specifications lay down.
  virtual std::span<const RegisterSpace> spaces() const = 0;
  virtual std::span<const MemoryRange> memory() const = 0;
  virtual std::span<const MemoryField> fields() const = 0;

  // Behind an event that makes work both sides are waited for, and interrupts and memory compared.
  virtual Work WorkOf(const Event& event) const = 0;
  virtual ReadKind KindOf(const Event& read) const = 0;
  // Reads that change nothing and show whether the device works.
  virtual std::span<const Event> status() const = 0;
  // It does, as the answers to status() say.
  virtual bool Busy(std::span<const uint64_t> status) const = 0;
  // Random traffic may have it.
  virtual bool Allows(const Event& event) const = 0;

  // What rows of kind "avoid" may keep out of random traffic, and whether an event is of it.
  virtual std::span<const std::string_view> operations() const { return {}; }
  virtual bool IsOf(std::string_view, const Event&) const { return false; }

  // " EN=1": the fields of what was read or written, where they are known.
  virtual std::string FieldsText(const Event& event, uint64_t value) const = 0;
  // " SQ1[3] Read cid 0x5 ...": what the guest writes to its memory, where that is known.
  virtual std::string MemoryText(const Event&) const { return {}; }
  virtual std::unique_ptr<Workload> MakeWorkload(uint64_t seed, const Lawful& lawful) const = 0;

  // The row that holds the byte; nullptr where there is none.
  const RegisterDef* Find(uint32_t region, uint64_t offset) const;
  // "BAR0 CC", "config Command", "BAR0+0x60".
  virtual std::string PlaceName(uint32_t region, uint64_t offset) const;
  // "BAR0 CC (0x14) write 4 = 0x460001 EN=1".
  std::string Text(const Event& event) const;
};

// A new model is a function here and a row in model.cc.
const Model& NvmeModel();
const Model& LsiModel();

// nullptr if there is none of this name.
const Model* FindModel(std::string_view name);
// "nvme, lsi53c895a".
std::string ModelNames();

}  // namespace farside::diff
