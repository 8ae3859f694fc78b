local lsi = import '../lib/lsi.libsonnet';
local scsi = import '../lib/scsi.libsonnet';

lsi.scenario(
  'lsi.phase-mismatch',
  'Targets with less data than the table has room for, and more; SCRIPTS halt with what did not move in DBC, or jump.',
  disks=[lsi.generated(seed=6)],
  steps=[
    lsi.attention(),
    { 'lsi.command': { cdb: scsi.inquiry(255), data_in: 255, expect: { residual: { min: 100 } } }, note: 'INQUIRY has less' },
    { 'lsi.command': { cdb: scsi.read10(3, 2), data_in: 4096, segments: 7, expect: { residual: 3072 } } },
    { 'lsi.command': { cdb: scsi.read10(3, 2), data_in: 4096, segments: 8, expect: { residual: 3072 } }, note: 'at the end of a segment' },
    { 'lsi.command': { cdb: scsi.write10(3, 1), data_out: [{ zeroes: 2048 }], segments: 3, expect: { residual: 1536 } } },
    lsi.ready(),
    lsi.reserve,
  ] + lsi.put([scsi.identify()], scsi.read10(9, 1)) + [
    // A move of 1000 bytes where 512 come.
    lsi.run(lsi.connect(10) + [lsi.move(lsi.phase.data_in, 1000, lsi.data + 4096), lsi.int(1)], {
      expect: { sist0: lsi.sist0.mismatch, dstat: 0, dsp: lsi.script + 32 },
    }),
    { 'bar.read': { bar: 1, offset: '0x24', size: 4, expect: { value: 488, mask: '0xffffff' } }, note: 'DBC' },
    { 'bar.read': { bar: 1, offset: '0x28', size: 4, expect: { value: lsi.data + 4096 + 512 } }, note: 'DNAD' },
    // The same with a jump: CCNTL0.ENPMJ, PMJAD1.
    lsi.ends([
      lsi.modify(86, lsi.op.load, 128),
      lsi.load(192, 4, lsi.data + 192),
    ] + lsi.connect(10) + [
      lsi.move(lsi.phase.data_in, 1000, lsi.data + 4096),
      lsi.int(1),
      lsi.store(216, 4, lsi.data + 196),
    ] + lsi.finish + [lsi.int(2)], 2),
  ],
) + {
  // PMJAD1 points behind INT 1.
  steps: std.flattenArrays([
    if std.objectHas(step, 'lsi.run_script') && std.objectHas(step['lsi.run_script'].expect, 'dsps')
    then [{ 'memory.write': { iova: lsi.data + 192, data: [{ u32: lsi.script + 56 }] } }, step] +
         [{ 'memory.check': { iova: lsi.data + 196, data: [{ u32: 512 }] }, note: 'SBC' }]
    else [step]
    for step in super.steps
  ]),
}
