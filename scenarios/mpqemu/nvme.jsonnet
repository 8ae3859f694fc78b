local mpqemu = import '../lib/mpqemu.libsonnet';
local nvme = import '../lib/mpqemu_nvme.libsonnet';

mpqemu.scenario(
  'mpqemu.nvme',
  'A driver with INTx works with the controller over mpqemu, before and after a reset.',
  mpqemu.farside('nvme0', nvme.args('driver=memory,node-name=d0,size=64M')),
  'nvme0',
  nvme.steps,
)
