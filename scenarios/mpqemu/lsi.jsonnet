local lsi = import '../lib/lsi.libsonnet';

local zeroes(size) = { driver: 'null-co', size: size, 'read-zeroes': 'on' };

lsi.mpqemu(
  'mpqemu.lsi',
  "disk-proc's chip by QEMU's multi-process protocol: what QEMU's own does, too.",
  disks=[zeroes('64M'), zeroes('8M')],
  steps=(import '../lib/lsi_steps.libsonnet')(),
)
