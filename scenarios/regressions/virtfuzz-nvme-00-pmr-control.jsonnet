local disk = import '../lib/disk.libsonnet';

// PMRCAP to PMRMSCU; CMBLOC, CMBSZ, CMBMSC and CMBSTS; NSSR; boot partitions.
local reserved = [
  '0xe00', '0xe04', '0xe08', '0xe0c', '0xe10', '0xe14', '0xe18',
  '0x38', '0x3c', '0x50', '0x54', '0x58', '0x20', '0x40', '0x44', '0x48', '0x4c',
];
local all = std.flattenArrays([
  [
    { 'bar.write': { bar: 0, offset: offset, value: '0xffffffff' }, note: offset },
    { 'bar.read': { bar: 0, offset: offset, expect: { value: 0 } }, note: offset },
  ]
  for offset in reserved
]);

disk.scenario(
  'regressions.virtfuzz-nvme-00-pmr-control',
  'Registers of a persistent memory region, a controller memory buffer and boot partitions that ' +
  'are not there: written, they stay 0. Mutant nvme-pmr-control.',
  steps=all + [{ 'nvme.enable': {} }] + all + [
    { 'bar.read': { bar: 0, offset: '0x1c', expect: { value: 1 } }, note: 'CSTS' },
    { 'nvme.create_queues': {} },
    { 'nvme.read': { block: 0, blocks: 8, fill: 0 } },
    { 'process.expect_alive': {} },
  ],
)
