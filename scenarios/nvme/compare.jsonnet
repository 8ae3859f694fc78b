local disk = import '../lib/disk.libsonnet';

disk.scenario(
  'nvme.compare',
  'Compare finds equal what is equal, and a difference in the last byte.',
  medium=disk.generated(seed=11),
  steps=[
    { 'nvme.enable': {} },
    { 'nvme.create_queues': {} },
    { 'nvme.compare': { block: 77, blocks: 40, generated: 11 } },
    { 'nvme.compare': { block: 77, blocks: 40, fill: 0, status: 'Compare Failure' } },
    { 'nvme.write': { block: 200, blocks: 2, fill: 1 } },
    { 'nvme.compare': { block: 200, blocks: 2, data: [{ hex: std.repeat('01', 1024) }] } },
    { 'nvme.compare': {
      block: 200,
      blocks: 2,
      data: [{ hex: std.repeat('01', 1023) + '02' }],
      status: 'Compare Failure',
    } },
    { 'nvme.compare': { block: 131071, blocks: 2, fill: 1, status: 'LBA Out of Range' } },
  ],
)
