local lsi = import '../lib/lsi.libsonnet';

// DSTAT.IID, and nothing was done.
local illegal(instruction, note, before=[]) =
  lsi.run(before + [instruction, lsi.int(1)], {
    expect: { dstat: { value: lsi.dstat.iid, mask: 5 }, sist0: 0, sist1: 0 },
  }) { note: note };
local transfer(opcode) = [2147483648 + opcode * 134217728 + lsi.always, lsi.script];
// CCNTL1.ENTIBMV: the top byte of a table's count selects a register.
local by_selector = [lsi.modify(87, lsi.op.load, 2)];

lsi.scenario(
  'regressions.shape-01-lsi-illegal-instructions',
  'Counts of zero, loads and stores of more than a register, reserved operation codes, and table ' +
  'entries with an index that names no register. Mutants lsi-block-move-zero, ' +
  'lsi-memory-move-zero, lsi-load-store-long, lsi-illegal-transfer, lsi-selector-past-table.',
  steps=[
    lsi.attention(),
    lsi.reserve,
  ] + [
    illegal(lsi.move(phase, 0, lsi.data), 'block move of nothing')
    for phase in [0, 1, 2, 3, 6, 7]
  ] + [
    illegal(lsi.move_memory(0, lsi.data, lsi.data + 64), 'memory move of nothing'),
  ] + [
    illegal(access(lsi.reg.scratcha, count, lsi.data), 'LOAD or STORE of %d' % count)
    for access in [lsi.load, lsi.store]
    for count in [0, 5, 6, 7]
  ] + [
    illegal(transfer(opcode), 'transfer control %d' % opcode)
    for opcode in [4, 5, 6, 7]
  ] + std.flattenArrays([
    [
      { 'memory.write': { iova: lsi.data + 512, data: [{ u32: index * 16777216 + 16 }, { u32: lsi.data }] } },
      lsi.run(by_selector + [lsi.move_table(1, 512), lsi.int(1)], {
        dsa: lsi.data,
        expect: { dstat: { value: lsi.dstat.iid, mask: 5 }, sist0: 0, sist1: 0 },
      }) { note: 'selector %d' % index },
    ]
    for index in [22, 23, 27, 31]
  ]) + [
    { 'memory.check': { iova: lsi.data, fill: 0, size: 512 } },
    { 'lsi.enable': {} },
    lsi.ready(),
    { 'process.expect_alive': {} },
  ],
)
