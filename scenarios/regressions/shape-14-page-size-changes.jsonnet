local disk = import '../lib/disk.libsonnet';

local on = 4587521;

disk.scenario(
  'regressions.shape-14-page-size-changes',
  'What CC and the admin queue registers said when the controller started holds until it is ' +
  'disabled. Mutants nvme-cc-changes-while-enabled, nvme-asq-changes-while-enabled.',
  medium=disk.generated(seed=7),
  steps=[
    { 'nvme.enable': {} },
    { 'nvme.create_queues': {} },
    { 'bar.read': { bar: 0, offset: '0x24', capture: 'aqa' } },
    { 'bar.read': { bar: 0, offset: '0x28', size: 8, capture: 'asq' } },
    { 'bar.write': { bar: 0, offset: '0x14', value: on + 4 * 128 }, note: 'MPS: 64 KiB' },
    { 'bar.read': { bar: 0, offset: '0x14', expect: { value: 0, mask: '0x780' } } },
    { 'bar.write': { bar: 0, offset: '0x14', value: on + 6 * 16 }, note: 'CSS' },
    { 'bar.read': { bar: 0, offset: '0x14', expect: { value: 0, mask: '0x70' } } },
    { 'bar.write': { bar: 0, offset: '0x24', value: 0 } },
    { 'bar.write': { bar: 0, offset: '0x28', value: 0, size: 8 } },
    { 'bar.write': { bar: 0, offset: '0x30', value: 0, size: 8 } },
    { 'bar.read': { bar: 0, offset: '0x24', expect: { value: '$aqa' } } },
    { 'bar.read': { bar: 0, offset: '0x28', size: 8, expect: { value: '$asq' } } },
    { 'nvme.read': { block: 3, blocks: 64, generated: 7 }, note: 'by lists of pages of 4 KiB' },
    { 'nvme.get_log': { log: 2, length: 512, at: 0, size: 1 } },
    { 'process.expect_alive': {} },
  ],
)
