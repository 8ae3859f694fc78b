local disk = import '../lib/disk.libsonnet';

local low = { iova: 0, size: '16M' };
local high = { iova: '0xfffffffffffff000', size: 4096 };
local read(prp1, prp2, blocks, status) = {
  'nvme.execute': { opcode: 2, nsid: 1, prp1: prp1, prp2: prp2, cdw12: blocks - 1, status: status },
};

disk.scenario(
  'regressions.shape-11-dma-wraps',
  'The last page of the address space and page 0 are two pages and not neighbours; LBAs do not ' +
  'wrap either. Mutants nvme-prp-wraps, nvme-lba-wraps.',
  medium=disk.generated(seed=6),
  more={ memory: [low, high] },
  steps=[
    { 'memory.reserve': { iova: 0, size: 4096 } },
    { 'nvme.enable': {} },
    { 'nvme.create_queues': {} },
    read('0xfffffffffffff000', 0, 8, 'Successful Completion'),
    read('0xfffffffffffff000', 0, 16, 'Successful Completion'),
    { 'memory.digest': { iova: 0, size: 4096, capture: 'second' } },
    read('0xfffffffffffffe00', 0, 8, 'Successful Completion') { note: 'a block, then page 0' },
    { 'nvme.execute': { opcode: 2, nsid: 1, prp1: '0xfffffffffffff000', cdw10: 8, cdw12: 7 } },
    { 'memory.digest': { iova: '0xfffffffffffff000', size: 4096, expect: { digest: '$second' } } },
  ] + [
    { 'nvme.execute': {
      opcode: opcode,
      nsid: 1,
      prp1: '0xfffffffffffff000',
      cdw10: 4294967295 - before,
      cdw11: 4294967295,
      cdw12: 7,
      status: 'LBA Out of Range',
    } }
    for opcode in [1, 2, 5, 8]
    for before in [0, 3, 6]
  ] + [
    { 'nvme.read': { block: 0, blocks: 64, generated: 6 } },
    { 'process.expect_alive': {} },
  ],
)
