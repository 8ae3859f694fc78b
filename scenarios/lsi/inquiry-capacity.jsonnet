local lsi = import '../lib/lsi.libsonnet';
local scsi = import '../lib/scsi.libsonnet';

lsi.scenario(
  'lsi.inquiry-capacity',
  'From INQUIRY to READ CAPACITY, as a driver finds its disks: with tags, without, and polled.',
  disks=[lsi.memory('64M'), lsi.generated(seed=3, size='8M')],
  steps=std.flattenArrays([
    [
      { 'lsi.command': {
        cdb: scsi.inquiry(),
        data_in: 36,
        tagged: false,
        at: 8,
        size: 8,
        expect: { text: 'FARSIDE', residual: 0 },
      } },
      { 'lsi.command': { cdb: scsi.inquiry(), data_in: 36, at: 16, size: 16, expect: { text: 'DISK' } } },
      { 'lsi.command': { cdb: scsi.inquiry(5), data_in: 5, size: 1, expect: { value: 0 } }, note: 'a disk' },
      { 'lsi.command': { cdb: scsi.report_luns(), data_in: 16, size: 4, expect: { value: 8 } } },
    ] +
    (if mode == 'intx' then [lsi.attention(0), lsi.attention(1)] else []) +
    [
      lsi.ready(0),
      lsi.ready(1),
      { 'lsi.command': { cdb: scsi.read_capacity10, data_in: 8, expect: { value: '0x1ffff00000200' } } },
      { 'lsi.command': { target: 1, cdb: scsi.read_capacity10, data_in: 8, expect: { value: '0x3fff00000200' } } },
      { 'lsi.command': { cdb: scsi.read_capacity16(), data_in: 32, size: 8, expect: { value: '0x1ffff' } } },
      { 'lsi.command': { target: 5, cdb: scsi.test_unit_ready, outcome: 'selection-timeout' } },
      { 'lsi.command': { target: 1, cdb: scsi.test_unit_ready }, note: 'the script goes on' },
      { 'lsi.command': { lun: 3, cdb: scsi.inquiry(), data_in: 36, size: 1, expect: { value: 127 } }, note: 'no such lun' },
    ] + (if mode == 'intx' then [{ 'lsi.enable': { completion: 'poll' } }] else [])
    for mode in ['intx', 'poll']
  ]),
)
