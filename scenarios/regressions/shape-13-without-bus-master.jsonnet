local lsi = import '../lib/lsi.libsonnet';

local running(bits) = { 'bar.read': { bar: 1, offset: lsi.reg.istat1, size: 1, expect: { value: bits } } };
local command(bits) = { 'config.write': { offset: 4, value: bits, size: 2 } };
local halted = { repeat: {
  steps: [{ 'bar.read': { bar: 1, offset: lsi.reg.istat1, size: 1, capture: 'istat1' } }],
  until: { of: '$istat1', value: 0 },
} };

lsi.scenario(
  'regressions.shape-13-without-bus-master',
  'A script that is started with bus mastering off waits for it, and then runs. ' +
  'Mutant lsi-master-gate-off.',
  steps=[
    lsi.attention(),
    lsi.reserve,
    { 'memory.write': { iova: lsi.data, fill: 33, size: 8 } },
    command(3),
    lsi.run([lsi.move_memory(4, lsi.data, lsi.data + 64), lsi.int(5)], { halts: false }),
    { wait: { us: 20000 } },
    running(2) { note: 'SRUN: it waits' },
    { 'bar.read': { bar: 1, offset: lsi.reg.istat0, size: 1, expect: { value: 0 } }, note: 'and says nothing' },
    { 'memory.check': { iova: lsi.data + 64, fill: 0, size: 8 } },
    command(7),
    halted,
    { 'bar.read': { bar: 1, offset: lsi.reg.dstat, size: 1, expect: { value: lsi.dstat.sir, mask: 127 } } },
    { 'bar.read': { bar: 1, offset: lsi.reg.dsps, size: 4, expect: { value: 5 } } },
    { 'memory.check': { iova: lsi.data + 64, fill: 33, size: 4 } },
    { 'lsi.enable': {} },
    lsi.ready(),
    { 'process.expect_alive': {} },
  ],
)
