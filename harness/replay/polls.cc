#include "harness/replay/polls.h"

#include <algorithm>

namespace farside::replay {
namespace {

std::vector<std::byte> Copied(ConstBytes bytes) { return {bytes.begin(), bytes.end()}; }

}  // namespace

Polls::Verdict Polls::OnReply(uint32_t event, uint64_t time_ns, ConstBytes read,
                              ConstBytes expected, ConstBytes got) {
  const bool same = std::ranges::equal(expected, got);
  if (!open_) {
    if (same) {
      last_[Copied(read)] = Copied(got);
      return Verdict::kFine;
    }
    open_ = Open{event, time_ns, Copied(read), Copied(expected), Copied(got)};
    return Verdict::kOpen;
  }
  if (!same) return std::ranges::equal(got, open_->got) ? Verdict::kOpen : Verdict::kWrong;
  const auto before = last_.find(open_->read);
  const bool news = before != last_.end() && before->second != open_->got;
  const bool earlier = news && std::ranges::equal(open_->got, expected);
  const bool later = std::ranges::equal(open_->expected, expected);
  if (!earlier && !later) return Verdict::kWrong;
  Close();
  last_[Copied(read)] = Copied(got);
  return Verdict::kFine;
}

bool Polls::Continues(ConstBytes read) const {
  return open_ && std::ranges::equal(read, open_->read);
}

void Polls::Close() {
  last_[open_->read] = open_->expected;
  open_.reset();
  ++count_;
}

}  // namespace farside::replay
