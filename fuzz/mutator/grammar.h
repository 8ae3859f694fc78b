// Grammar: what a mutator knows of a target, so that what it makes up means something.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/random.h"
#include "fuzz/session/event.h"
#include "harness/diff/model.h"

namespace farside::fuzz {

// Sources of randomness and memory for what is made up.
struct Making {
  Random& random;
  Store& store;

  uint64_t Below(uint64_t bound) { return random.Below(bound); }
  bool OneIn(uint64_t n) { return random.OneIn(n); }
  template <typename T>
  T Pick(std::initializer_list<T> values) {
    return *(values.begin() + random.Below(values.size()));
  }
  ConstBytes RandomBytes(size_t size);
  // Where things go wrong: 0, all ones, single bits, sizes and their neighbours.
  uint64_t Number();
};

class Grammar {
 public:
  virtual ~Grammar() = default;

  // The events of a driver that has set the device up: what kReady sessions begin with.
  virtual void AddPrologue(Store& store, std::vector<Event>* out) const;
  // Adds one to many events that make sense together, behind `before`.
  virtual void AddPiece(Making& making, std::span<const Event> before,
                        std::vector<Event>* out) const = 0;
  // Changes the data of an event as what it is: a descriptor, an instruction, a message.
  virtual void MutateData(Making& making, const Event& event, Bytes data) const;
  // Session flags that mean something to the target.
  virtual uint8_t flags() const { return 0; }
  uint8_t ready() const { return static_cast<uint8_t>(flags() & kReady); }
  // An access that `event` makes, in the words of the registers; empty where there is none.
  virtual std::string Describe(const Event& event) const;
  // Single events that are worth trying anywhere, each once: what a dictionary is made of.
  virtual void AddWords(std::vector<Event>* out) const;
};

// What the grammars of PCI device models share: registers by name, configuration space, interrupts,
// windows, resets; and the driver's work that `farside diff` knows.
class DeviceGrammar : public Grammar {
 public:
  // `driver_work` is how many pieces in a thousand are a well-behaved driver's.
  DeviceGrammar(const diff::Model& model, uint64_t driver_work)
      : model_(model), driver_work_(driver_work) {}

  void AddPiece(Making& making, std::span<const Event> before,
                std::vector<Event>* out) const override;
  uint8_t flags() const override { return kByMessage | kOwnTable | kReady; }
  std::string Describe(const Event& event) const override;
  void AddWords(std::vector<Event>* out) const override;

 protected:
  // Commands and the like, with the answers that their DMA gets.
  virtual void AddWork(Making& making, std::span<const Event> before,
                       std::vector<Event>* out) const = 0;
  // Every BAR placed, decoding and bus mastering on.
  void AddFunctionSetUp(std::span<const std::pair<uint32_t, uint64_t>> bars,
                        std::vector<Event>* out) const;

  const diff::Model& model() const { return model_; }

 private:
  void AddRegisterAccess(Making& making, std::vector<Event>* out) const;
  void AddConfigAccess(Making& making, std::vector<Event>* out) const;
  void AddHostEvent(Making& making, std::vector<Event>* out) const;
  void AddDriverWork(Making& making, std::vector<Event>* out) const;

  const diff::Model& model_;
  const uint64_t driver_work_;
};

Event ReadOf(uint32_t region, uint64_t offset, uint32_t size);
Event WriteOf(uint32_t region, uint64_t offset, uint32_t size, uint64_t value);
// An IOVA that is memory, mostly, with so many bytes behind it.
uint64_t SomeMemory(Making& making, uint64_t size);

// A new model is a function here and a row in fuzz/targets/device_target.cc.
const Grammar& NvmeGrammar();
const Grammar& LsiGrammar();
// A vfio-user client of an NVMe controller.
const Grammar& ServerGrammar();
// A VMM with a hostile device process.
const Grammar& ClientGrammar();
// Block nodes and their users (fuzz/targets/block_target.h).
const Grammar& BlockGrammar();

// By the target's name, for who has no targets, as AFL++'s mutator; nullptr where a target has
// none.
const Grammar* FindGrammar(std::string_view target);
std::string GrammarNames();  // "nvme, lsi".

}  // namespace farside::fuzz
