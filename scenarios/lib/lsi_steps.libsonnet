// What any LSI53C895A with two disks of zeroes does, whoever wrote it.
local lsi = import 'lsi.libsonnet';
local scsi = import 'scsi.libsonnet';

local tags = std.range(0, 31);

// `after_enable`: QEMU's SRST resets the bus, too.
function(after_enable=[]) [lsi.attention(0), lsi.attention(1)] + [
  { 'lsi.command': { cdb: scsi.inquiry(), data_in: 36, size: 1, expect: { value: 0, residual: 0 } } },
  { 'lsi.command': { cdb: scsi.inquiry(), data_in: 36, tagged: false, size: 1, expect: { value: 0 } } },
  { 'lsi.command': { cdb: scsi.read10(0), data_in: 4096, segments: 3, expect: { residual: 3584 } }, note: 'a phase mismatch' },
  { 'lsi.command': { cdb: scsi.read_capacity10, data_in: 8, expect: { value: '0x1ffff00000200' } } },
  { 'lsi.command': { target: 1, cdb: scsi.read_capacity10, data_in: 8, expect: { value: '0x3fff00000200' } } },
  { 'lsi.command': { target: 5, cdb: scsi.test_unit_ready, outcome: 'selection-timeout' } },
  lsi.refused(scsi.read10(131072), scsi.asc.lba_out_of_range, { data_in: 512 }),
  lsi.refused(scsi.bytes([255, 0, 0, 0, 0, 0]), scsi.asc.invalid_opcode),
] + std.flattenArrays([
  [
    { 'lsi.read': { block: 128 * n, blocks: 128, fill: 0, segments: n } },
    { 'lsi.write': { block: 128 * n, blocks: 128, seed: n, segments: n } },
    { 'lsi.read': { block: 128 * n, blocks: 128, fill: 0, tagged: false } },
  ]
  for n in [1, 3, 16, 22]
]) + [
  { 'lsi.command': { cdb: scsi.synchronize_cache10 } },
] + [
  { 'lsi.submit': {
    cdb: scsi.read10(128 * t, 128),
    data_in: 65536,
    target: t % 2,
    segments: 1 + t % 7,
    capture: { id: 'tag%d' % t },
  } }
  for t in tags
] + [
  { 'lsi.wait': { id: '$tag%d' % t, expect: { residual: 0, value: 0 } } }
  for t in tags
] + [
  { 'lsi.message_out': { data: scsi.bytes([scsi.identify(), scsi.messages.abort]) } },
  lsi.ready(0),
  { 'lsi.bus_reset': {} },
  lsi.attention(0),
  lsi.attention(1),
  { 'lsi.read': { block: 0, blocks: 128, fill: 0 } },
  { 'lsi.message_out': { data: scsi.bytes([scsi.messages.bus_device_reset]) } },
  // QEMU 7.2 makes no unit attention of it; REQUEST SENSE takes ours away.
  { 'lsi.command': { cdb: scsi.request_sense(), data_in: 18 } },
  lsi.ready(0),
  lsi.ready(1),
  { 'lsi.enable': { completion: 'poll' } },
] + after_enable + [
  { 'lsi.read': { block: 0, blocks: 128, fill: 0 } },
  { 'process.expect_alive': {} },
]
