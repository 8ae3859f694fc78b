local lsi = import '../lib/lsi.libsonnet';
local scsi = import '../lib/scsi.libsonnet';

local works = [
  { 'lsi.write': { block: 8, blocks: 8, seed: 2 } },
  { 'lsi.read': { block: 8, blocks: 8, seed: 2 } },
];
// Reads that nobody has waited for.
local reads(count) = [
  { 'lsi.submit': {
    cdb: scsi.read10(64 * i, 128),
    data_in: 65536,
    target: i % 2,
    segments: 1 + i % 4,
    capture: { id: 'id%d' % i },
  } }
  for i in std.range(0, count - 1)
];
local forget(count) = [{ 'lsi.forget': { id: '$id%d' % i } } for i in std.range(0, count - 1)];
// Of target 0's, which may have ended before the message came; target 1 goes on.
local aborted = [
  if i % 2 == 0 then { 'lsi.forget': { id: '$id%d' % i } } else { 'lsi.wait': { id: '$id%d' % i } }
  for i in std.range(0, 23)
];
local attentions(asc) = [lsi.attention(0, asc), lsi.attention(1, asc)];
// A command that holds the bus: it is in its data phase, and the script has halted.
local holds = lsi.put([scsi.identify()], scsi.read10(9, 1)) + [
  lsi.ends(lsi.connect(10) + [lsi.jump(lsi.script, lsi.always + lsi.when(lsi.phase.message_in)), lsi.int(7)], 7),
  { 'bar.read': { bar: 1, offset: lsi.reg.istat0, size: 1, expect: { value: 8, mask: 8 } }, note: 'connected' },
];

lsi.scenario(
  'lsi.recovery',
  'ABORT, BUS DEVICE RESET, a reset of the bus, of the chip and of the function while commands are in flight.',
  disks=[lsi.memory(), lsi.generated(seed=21)],
  more={ irqs_vary: 'how many of the reads complete before the reset is a race' },
  steps=attentions(scsi.asc.reset) + works + [
    { 'lsi.message_out': { data: scsi.bytes([scsi.identify(), scsi.messages.abort]) } },
    lsi.ready(0),
    { 'lsi.message_out': { data: scsi.bytes([scsi.identify(), 32, 77, scsi.messages.abort_tag]) } },
    lsi.ready(0),
    { 'lsi.message_out': { data: scsi.bytes([scsi.messages.bus_device_reset]) } },
    lsi.attention(0, { min: 10496, max: 10499 }),
    lsi.ready(1),
    { 'lsi.message_out': { target: 9, data: scsi.bytes([scsi.messages.abort]), outcome: 'selection-timeout' } },
    lsi.ready(0),
  ] + works +
  reads(24) + [{ 'lsi.message_out': { data: scsi.bytes([scsi.identify(), scsi.messages.abort]) } }] + aborted + works +
  reads(24) + [{ 'lsi.bus_reset': {} }] + forget(24) + attentions(scsi.asc.reset) + works +
  reads(24) + [
    { 'bar.write': { bar: 1, offset: lsi.reg.istat0, size: 1, value: 64 }, note: 'SRST' },
    { 'bar.write': { bar: 1, offset: lsi.reg.istat0, size: 1, value: 0 } },
    { 'bar.write': { bar: 1, offset: lsi.reg.scntl1, size: 1, value: 8 }, note: 'RST/' },
    { 'lsi.enable': {} },
  ] + attentions(scsi.asc.reset) + works +
  reads(24) + [{ reset: {} }, { 'lsi.enable': {} }] + attentions(scsi.asc.reset) + works +
  reads(24) + [{ disconnect: {} }, { connect: {} }, { reset: {} }, { 'lsi.enable': {} }] + attentions(scsi.asc.reset) + works +
  [lsi.reserve] +
  holds + [{ 'lsi.enable': {} }] + works +
  holds + [
    { 'bar.write': { bar: 1, offset: lsi.reg.scntl1, size: 1, value: 8 } },
    { 'bar.write': { bar: 1, offset: lsi.reg.scntl1, size: 1, value: 0 } },
    { 'bar.read': { bar: 1, offset: lsi.reg.istat0, size: 1, expect: { value: 0, mask: 8 } }, note: 'free' },
    { 'lsi.enable': {} },
  ] + attentions(scsi.asc.reset) + works +
  holds + [{ reset: {} }, { 'lsi.enable': {} }] + attentions(scsi.asc.reset) + works +
  [
    { 'memory.write': { iova: lsi.data, fill: 0, size: 4096 } },
    { 'process.expect_alive': {} },
  ],
)
