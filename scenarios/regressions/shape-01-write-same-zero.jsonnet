local lsi = import '../lib/lsi.libsonnet';
local scsi = import '../lib/scsi.libsonnet';

local same10(block, blocks, flags=0) =
  scsi.bytes([65, flags]) + scsi.be(block, 4) + scsi.bytes([0]) + scsi.be(blocks, 2) + scsi.bytes([0]);
local same16(block, blocks, flags=0) =
  scsi.bytes([147, flags]) + scsi.be(0, 4) + scsi.be(block, 4) + scsi.be(blocks, 4) + scsi.bytes([0, 0]);
local data = { data_out: [{ hex: std.repeat('5a', 512) }] };

lsi.scenario(
  'regressions.shape-01-write-same-zero',
  'WRITE SAME of no blocks, and other commands of none. Mutant scsi-write-same-zero.',
  disks=[lsi.generated(seed=15)],
  steps=[
    lsi.attention(),
    lsi.refused(same10(0, 0), scsi.asc.invalid_field_in_cdb, data),
    lsi.refused(same16(0, 0), scsi.asc.invalid_field_in_cdb, data),
    lsi.refused(same16(0, 0, 1), scsi.asc.invalid_field_in_cdb),
    lsi.refused(same10(131071, 0), scsi.asc.invalid_field_in_cdb, data),
    { 'lsi.command': { cdb: scsi.read10(0, 0), data_in: 512, expect: { residual: 512 } } },
    { 'lsi.command': { cdb: scsi.write10(0, 0) } },
    { 'lsi.read': { block: 0, blocks: 64, generated: 15 } },
    { 'lsi.command': { cdb: same10(4, 4) } + data },
    { 'lsi.read': { block: 0, blocks: 4, generated: 15 } },
    { 'lsi.read': { block: 4, blocks: 4, fill: 90 } },
    { 'lsi.read': { block: 8, blocks: 8, generated: 15 } },
    { 'process.expect_alive': {} },
  ],
)
