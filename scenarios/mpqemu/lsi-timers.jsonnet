local lsi = import '../lib/lsi.libsonnet';

lsi.mpqemu(
  'mpqemu.lsi-timers',
  "The general purpose timer interrupts when its time has come, by QEMU's multi-process protocol.",
  steps=[lsi.attention()] + lsi.start_timer(1) + lsi.timer_fires +
        lsi.start_timer(8) + lsi.timer_fires + [{ 'lsi.enable': {} }, lsi.ready()],
)
