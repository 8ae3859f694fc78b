local disk = import '../lib/disk.libsonnet';

// Submits reads and does not wait for them. The buffer is the scenario's own.
local reads(count) = [
  { 'nvme.submit': {
    opcode: 2,
    nsid: 1,
    prp1: '$buffer',
    cdw10: 8 * i,
    cdw12: 7,
  } }
  for i in std.range(1, count)
];

// What is left of them in the guest's memory depends on how far they came.
local forget = [
  { 'memory.write': { iova: '$buffer', fill: 0, size: 4096 } },
];

local works = [
  { 'nvme.enable': {} },
  { 'nvme.create_queues': { count: 1, entries: 64 } },
  { 'nvme.write': { block: 8, blocks: 8, seed: 2 } },
  { 'nvme.read': { block: 8, blocks: 8, seed: 2 } },
];

disk.scenario(
  'nvme.reset-in-flight',
  'A reset of the controller, of the function and of the connection, with commands in flight.',
  medium=disk.generated(seed=21),
  more={ irqs_vary: 'how many of the reads complete before the reset is a race' },
  steps=[{ 'memory.alloc': { size: 4096, capture: 'buffer' } }] +
        works + reads(40) + [{ 'nvme.disable': {} }] + forget +
        works + reads(40) + [{ reset: {} }] + forget +
        [{ 'bar.read': { bar: 0, offset: '0x14', expect: { value: 0 } }, note: 'CC as after power-on' }] +
        works + reads(40) + [{ disconnect: {} }, { connect: {} }, { reset: {} }] + forget +
        works + [{ 'process.expect_alive': {} }],
)
