local mpqemu = import '../lib/mpqemu.libsonnet';
local nvme = import '../lib/mpqemu_nvme.libsonnet';

mpqemu.with_image(mpqemu.scenario(
  'qemu.nvme',
  "The same steps as mpqemu.nvme, with QEMU's own controller: another implementation agrees.",
  mpqemu.qemu('nvme0', nvme.args('driver=file,node-name=d0,filename=disk.img')),
  'nvme0',
  nvme.steps,
))
