local disk = import '../lib/disk.libsonnet';

local on = 4587521;  // CC: EN, entries of 64 and 16 bytes.
local csts(value) = { repeat: {
  steps: [{ 'bar.read': { bar: 0, offset: '0x1c', capture: 'csts' } }],
  until: { of: '$csts', value: value },
  times: 200,
} };
// It fails to start: CFS, and never RDY with it.
local fatal(aqa, cc=on) = [
  { 'bar.write': { bar: 0, offset: '0x24', value: aqa } },
  { 'bar.write': { bar: 0, offset: '0x14', value: cc } },
  csts(2),
  { 'bar.read': { bar: 0, offset: '0x1c', expect: { value: 2 } }, note: 'it stays so' },
  { 'bar.write': { bar: 0, offset: '0x1000', value: 1 }, note: 'a doorbell all the same' },
  { 'bar.read': { bar: 0, offset: '0x1c', expect: { value: 2 } } },
  { 'bar.write': { bar: 0, offset: '0x14', value: 0 } },
  csts(0),
];
local sizes(submission, completion) = completion * 65536 + submission;

disk.scenario(
  'regressions.freebsd-d35453-admin-queues',
  'A controller whose admin queues, page size or command set cannot be is fatal and not ready, ' +
  'and starts when they are right. Mutants nvme-ready-and-fatal, nvme-admin-queue-size.',
  steps=[
    { 'nvme.enable': {} },
    { 'nvme.disable': {} },
  ] +
  fatal(sizes(0, 15)) + fatal(sizes(15, 0)) + fatal(0) +
  fatal(sizes(15, 15), on + 15 * 128) +  // MPS
  fatal(sizes(15, 15), on + 6 * 16) +  // CSS
  [
    { 'nvme.enable': {} },
    { 'nvme.create_queues': {} },
    { 'nvme.write': { block: 1, blocks: 8, seed: 1 } },
    { 'nvme.read': { block: 1, blocks: 8, seed: 1 } },
    { 'process.expect_alive': {} },
  ],
)
