local disk = import '../lib/disk.libsonnet';

local config(offset, size, name) = [
  { 'config.read': { offset: offset, size: size, capture: 'was' } },
  { 'config.write': { offset: offset, value: '0x' + std.repeat('ff', size), size: size }, note: name },
  { 'config.read': { offset: offset, size: size, expect: { value: '$was' } }, note: name },
  { 'config.write': { offset: offset, value: 0, size: size } },
  { 'config.read': { offset: offset, size: size, expect: { value: '$was' } }, note: name },
];
local register(offset, size, name) = [
  { 'bar.read': { bar: 0, offset: offset, size: size, capture: 'was' } },
  { 'bar.write': { bar: 0, offset: offset, value: '0x' + std.repeat('ff', size), size: size }, note: name },
  { 'bar.read': { bar: 0, offset: offset, size: size, expect: { value: '$was' } }, note: name },
  { 'bar.write': { bar: 0, offset: offset, value: 0, size: size } },
  { 'bar.read': { bar: 0, offset: offset, size: size, expect: { value: '$was' } }, note: name },
];

disk.scenario(
  'regressions.shape-19-read-only-bits',
  'Identities, capabilities and status are not for writing. Mutant pci-readonly-writable.',
  steps=[{ 'nvme.enable': {} }] +
        config(0, 4, 'vendor, device') + config(8, 4, 'revision, class') +
        config(44, 4, 'subsystem') + config(52, 1, 'capabilities') + config(61, 1, 'pin') +
        config(14, 1, 'header type') +
        register(0, 8, 'CAP') + register(8, 4, 'VS') + register(28, 4, 'CSTS') +
        [
          { 'nvme.create_queues': {} },
          { 'nvme.read': { block: 0, blocks: 8, fill: 0 } },
          { 'process.expect_alive': {} },
        ],
)
