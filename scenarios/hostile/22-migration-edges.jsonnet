local lib = import 'lib.libsonnet';

local flags(operation) = lib.features.state + operation;
local set(state, errno=0, note=null) =
  lib.call('DEVICE_FEATURE', lib.feature(flags(lib.set), lib.u32([state, 0])), errno, note=note);
local is(state) = lib.call('DEVICE_FEATURE',
                           lib.feature(flags(lib.get)),
                           expect={ at: 8, width: 4, expect: { value: state } });
local reset = lib.call('DEVICE_RESET');

local names = {
  '0': 'ERROR',
  '1': 'STOP',
  '2': 'RUNNING',
  '3': 'STOP_COPY',
  '4': 'RESUMING',
  '5': 'RUNNING_P2P',
  '6': 'PRE_COPY',
  '7': 'PRE_COPY_P2P',
};
local name(state) = std.get(names, '%d' % state, 'nothing');
local lawful = [1, 2, 3, 4];

// Leaving RESUMING takes in what came: here, what was saved before. A reply of MIG_DATA_READ is
// laid out like a MIG_DATA_WRITE.
local save = set(3) + lib.call('MIG_DATA_READ',
                               lib.u32([1048576, 1048576 - 8]),
                               expect={ capture: { payload: 'saved' } }) + set(2);
local load = lib.call('MIG_DATA_WRITE', '$saved');

// From RUNNING.
local go(from) = if from == 0 then set(4) + set(1, 'EINVAL') + is(0) else set(from);

local edge(from, to) =
  local ok = from != 0 && std.member(lawful, to);
  go(from) + (if from == 4 then load else []) +
  set(to, if ok then 0 else 'EINVAL', 'from %s to %s' % [name(from), name(to)]) +
  is(if ok then to else from) +
  reset + is(2);

lib.scenario(
  '22-migration-edges',
  'Each pair of the 8 migration states, and states beyond them: what the device cannot reach is ' +
  'refused and changes nothing.',
  attack=lib.client(
    save + lib.flat([
      edge(from, to)
      for from in [0] + lawful
      for to in std.range(0, 8) + [4294967295]
    ]) + lib.in_step
  ),
  rounds=5,
)
