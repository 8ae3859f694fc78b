local disk = import '../lib/disk.libsonnet';

// The smallest queues, a page of entries, the largest.
local sizes = [2, 64, 1024];

local rounds(entries) = [
  { 'nvme.enable': {} },
  { 'nvme.create_queues': { count: 2, entries: entries }, note: '%d entries' % entries },
  { 'nvme.write': { block: entries, blocks: 1, seed: entries, queue: 1 } },
  { 'nvme.write': { block: entries + 1, blocks: 255, seed: entries, queue: 2 } },
  { 'nvme.read': { block: entries, blocks: 256, seed: entries, queue: 1 } },
  { 'nvme.read': { block: entries + 17, blocks: 3, seed: entries, queue: 2 } },
  { 'nvme.write': { block: entries + 4, blocks: 8, fill: '0xa5', queue: 2, fua: true } },
  { 'nvme.read': { block: entries + 4, blocks: 8, fill: '0xa5', queue: 1 } },
  { 'nvme.read': { block: entries + 12, blocks: 100, seed: entries, queue: 1 } },
  { 'nvme.delete_queue': { queue: 2 } },
];

disk.scenario(
  'nvme.write-read-verify',
  'What is written is read back, through queues of several sizes; the rest is untouched.',
  medium=disk.generated(seed=3),
  steps=std.flattenArrays([rounds(entries) for entries in sizes]) + [
    { 'nvme.read': { block: 40000, blocks: 1024, generated: 3 }, note: 'the largest transfer: 512 KiB' },
    { 'nvme.read': { block: 131071, blocks: 1, generated: 3 }, note: 'the last block' },
    { 'nvme.read': { block: 131071, blocks: 2, status: 'LBA Out of Range' } },
    { 'nvme.read': { block: '0xffffffffffffffff', blocks: 1, status: 'LBA Out of Range' } },
  ],
)
