local lib = import 'lib.libsonnet';

// 14 was DIRTY_PAGES; 0x8001 is an extension that goes the other way.
local unknown = [0, 14, 19, 255, 32767, 32769, 65535];

lib.scenario(
  '04-unknown-command',
  'Commands that are not there, not any more or not for a client are refused, and nothing else ' +
  'happens.',
  attack=
  [lib.connect()] +
  lib.flat([
    lib.call(command, errno='EOPNOTSUPP', note='before VERSION')
    for command in unknown
  ]) + lib.gone +
  lib.client(
    lib.flat([
      lib.call(command, payload, 'EOPNOTSUPP')
      for command in unknown
      for payload in [[], [{ zeroes: 64 }]]
    ]) +
    lib.call(32770, lib.u64([1]), 'EOPNOTSUPP', note='CLOCK_ADVANCE, which was not negotiated') +
    lib.call('DMA_READ', lib.u64([0, 4]), 'EINVAL', note='only the server may send it') +
    lib.call('DMA_WRITE', lib.u64([0, 4]) + lib.u32([0]), 'EINVAL') +
    [lib.note(lib.send(14, [], { no_reply: true }), 'an error that nobody wants to hear of')] +
    lib.in_step
  ),
)
