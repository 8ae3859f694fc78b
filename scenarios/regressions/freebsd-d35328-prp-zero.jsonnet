local disk = import '../lib/disk.libsonnet';

local read(blocks, prp1, prp2=0, more={}) = {
  'nvme.execute': { opcode: 2, nsid: 1, prp1: prp1, prp2: prp2, cdw10: 0, cdw12: blocks - 1 } + more,
};
local failed = { status: 'Data Transfer Error' };

disk.scenario(
  'regressions.freebsd-d35328-prp-zero',
  'PRPs of 0 name the page at 0, which is not mapped here: the command fails, and nothing else ' +
  'happens. Mutant nvme-prp-zero-continues.',
  medium=disk.generated(seed=5),
  steps=[
    { 'nvme.enable': {} },
    { 'nvme.create_queues': {} },
    { 'memory.alloc': { size: 4096, capture: 'buffer' } },
    read(1, 0, more=failed),
    read(8, 0, more=failed),
    read(16, 0, more=failed),
    read(16, 0, '$buffer', failed),
    read(64, 0, more=failed),
    read(64, 0, '$buffer', failed),
    read(16, '$buffer', 0, failed),
    read(64, '$buffer', 0, failed),
    { 'nvme.read': { block: 0, blocks: 64, generated: 5 } },
    { 'process.expect_alive': {} },
  ],
)
