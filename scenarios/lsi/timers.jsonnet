local lsi = import '../lib/lsi.libsonnet';
local scsi = import '../lib/scsi.libsonnet';

local states = { running: 2, stop_copy: 3, resuming: 4 };
local set(state) = {
  'feature.set': { feature: 'state', data: [{ u32: states[state] }, { u32: 0 }] },
};
local halts(sist1) = { expect: { sist1: sist1, sist0: 0, dstat: 0 } };

lsi.scenario(
  'lsi.timers',
  'GEN and HTH interrupt when their time has come: started by the driver, by SCRIPTS, and before the state was saved and loaded.',
  disks=[lsi.generated(seed=6)],
  steps=[lsi.attention(), lsi.reserve] +
        lsi.start_timer(4) + lsi.timer_fires +
        // 512 ms: the state is saved before.
        lsi.start_timer(13) + [
    set('stop_copy'),
    { 'mig.read': { capture: { data: 'saved' } } },
    set('resuming'),
    { 'mig.write': { data: '$saved' } },
    set('running'),
  ] + lsi.timer_fires + [
    lsi.run([
      lsi.modify(lsi.reg.sien1, lsi.op.load, lsi.sist1.general),
      lsi.modify(lsi.reg.stime1, lsi.op.load, 1),
      lsi.wait_reselect(),
    ], halts(lsi.sist1.general)),
  ] + lsi.put([scsi.identify()], scsi.read10(9, 1)) + [
    // The target sends data, and waits for SCRIPTS to take them.
    lsi.run([
      lsi.modify(lsi.reg.sien1, lsi.op.load, lsi.sist1.handshake),
      lsi.modify(lsi.reg.stime0, lsi.op.load, 16),
    ] + lsi.connect(10) + [lsi.wait_disconnect], halts(lsi.sist1.handshake)),
    { 'lsi.enable': {} },
    lsi.ready(),
  ],
)
