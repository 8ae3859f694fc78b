local disk = import '../lib/disk.libsonnet';

disk.scenario(
  'nvme.dsm',
  'Dataset Management deallocates ranges; the blocks between them stay.',
  medium=disk.memory() { discard: 'unmap' },
  steps=[
    { 'nvme.enable': {} },
    { 'nvme.create_queues': {} },
    { 'nvme.write': { block: 0, blocks: 128, seed: 5 } },
    { 'nvme.dsm': { ranges: [{ block: 0, blocks: 16 }, { block: 32, blocks: 16 }] } },
    { 'nvme.read': { block: 16, blocks: 16, seed: 5 } },
    { 'nvme.read': { block: 48, blocks: 80, seed: 5 } },
    { 'nvme.read': { block: 0, blocks: 16, fill: 0 } },
    { 'nvme.read': { block: 32, blocks: 16, fill: 0 } },
    { 'nvme.dsm': { ranges: [{ block: 64, blocks: 0 }] }, note: 'an empty range' },
    { 'nvme.dsm': { ranges: [{ block: 2 * i, blocks: 1 } for i in std.range(32, 63)] } },
    { 'nvme.read': { block: 127, blocks: 1, seed: 5 } },
    { 'nvme.dsm': { ranges: [{ block: 131071, blocks: 2 }], status: 'LBA Out of Range' } },
    { 'nvme.dsm': { ranges: [{ block: '0xffffffffffffffff', blocks: 2 }], status: 'LBA Out of Range' } },
  ],
)
