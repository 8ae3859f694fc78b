local m = import '../lib/mpqemu.libsonnet';

// Found by `farside fuzz run --connect exec:...`; docs/mpqemu.md has it as a report.
m.scenario(
  'qemu.nvme-hole',
  "One read of QEMU's NVMe controller where its BAR has nothing, as behind the doorbells where the " +
  'remote does without MSI-X, ends the process. A guest can do that.',
  m.qemu('nvme0', [
    '-blockdev',
    'driver=null-co,node-name=d0,size=67108864,read-zeroes=on',
    '-device',
    'nvme,id=nvme0,drive=d0,serial=hole',
  ]),
  'nvme0',
  [
    { 'bar.read': { bar: 0, offset: 8, size: 4 } },
    { 'bar.read': { bar: 0, offset: 8192, size: 4 } },
    { 'process.wait': { status: 0 } },
    { 'log.expect': { pattern: 'Bad address e0002000 for mem read' } },
  ]
)
