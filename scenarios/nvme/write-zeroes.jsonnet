local disk = import '../lib/disk.libsonnet';

disk.scenario(
  'nvme.write-zeroes',
  'Write Zeroes zeroes what it names, whatever its size, and nothing beside it.',
  medium=disk.generated(seed=9) { discard: 'unmap' },
  steps=[
    { 'nvme.enable': {} },
    { 'nvme.create_queues': {} },
    { 'nvme.write_zeroes': { block: 100, blocks: 1 } },
    { 'nvme.read': { block: 99, blocks: 1, generated: 9 } },
    { 'nvme.read': { block: 100, blocks: 1, fill: 0 } },
    { 'nvme.read': { block: 101, blocks: 1, generated: 9 } },
    { 'nvme.write_zeroes': { block: 1000, blocks: 65536, deallocate: true }, note: 'more than a transfer has' },
    { 'nvme.read': { block: 999, blocks: 1, generated: 9 } },
    { 'nvme.read': { block: 1000, blocks: 1024, fill: 0 } },
    { 'nvme.read': { block: 65512, blocks: 1024, fill: 0 } },
    { 'nvme.read': { block: 66536, blocks: 1, generated: 9 } },
    { 'nvme.write': { block: 2000, blocks: 8, seed: 4 } },
    { 'nvme.read': { block: 2000, blocks: 8, seed: 4 } },
    { 'nvme.write_zeroes': { block: 131071, blocks: 2, status: 'LBA Out of Range' } },
  ],
)
