local lsi = import '../lib/lsi.libsonnet';

// It waits for a target, for ever: SRUN stays, and no interrupt comes.
local waits(phase) = [
  lsi.run([lsi.move(phase, 16, lsi.data), lsi.int(1)], { halts: false }),
  { wait: { us: 20000 } },
  { 'bar.read': { bar: 1, offset: lsi.reg.istat1, size: 1, expect: { value: 2 } }, note: 'it runs' },
  { 'bar.read': { bar: 1, offset: lsi.reg.istat0, size: 1, expect: { value: 0 } }, note: 'and says nothing' },
];

lsi.scenario(
  'lsi.gitlab-305-move-without-nexus',
  'A script that moves data while there is no command waits for one, and can be stopped.',
  steps=[lsi.attention(), lsi.reserve] +
        std.flattenArrays([waits(phase) for phase in [0, 1, 2, 3, 6, 7]]) +
        [{ 'lsi.enable': {} }, lsi.ready(), { 'process.expect_alive': {} }],
)
