local lsi = import '../lib/lsi.libsonnet';

lsi.qemu(
  'qemu.lsi',
  "QEMU's own LSI53C895A and disks, on a qemu-system-x86_64: the second opinion on the driver and the steps that disk-proc passes.",
  sizes=[67108864, 8388608],
  steps=(import '../lib/lsi_steps.libsonnet')([lsi.attention(0)]),
)
