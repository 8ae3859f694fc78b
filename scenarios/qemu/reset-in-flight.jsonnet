local lsi = import '../lib/lsi.libsonnet';
local m = import '../lib/mpqemu.libsonnet';
local scsi = import '../lib/scsi.libsonnet';

// Found by `farside fuzz run --connect exec:...`; docs/mpqemu.md has it as a report. disk-proc does
// better: lsi/recovery.
m.scenario(
  'qemu.reset-in-flight',
  "A reset of QEMU's LSI53C895A while a target that has left the bus works on a command: the chip's " +
  'process aborts, at an assertion that its queue is empty.',
  m.qemu('lsi0', [
    '-device',
    'lsi53c895a,id=lsi0',
    '-blockdev',
    'driver=null-co,node-name=d0,size=67108864,read-zeroes=on,latency-ns=2000000000',
    '-device',
    'scsi-hd,drive=d0,bus=lsi0.0,scsi-id=0',
  ]),
  'lsi0',
  [
    { 'lsi.enable': {} },
    lsi.attention(),
    { 'lsi.submit': { cdb: scsi.read10(0, 1), data_in: 512 } },
    { reset: { refused: 'EPIPE' } },
    { 'process.wait': { expect: { status: 6, signalled: 1 } } },
    { 'log.expect': { pattern: 'lsi_soft_reset: Assertion .*QTAILQ_EMPTY' } },
  ]
)
