local disk = import '../lib/disk.libsonnet';

local number_of_queues = 7;
local both(n) = (n - 1) * 65537;
local create_cq(id, entries=16, more={}) = {
  'nvme.execute': { queue: 0, opcode: 5, prp1: '$ring', cdw10: (entries - 1) * 65536 + id, cdw11: 1 } + more,
};
local create_sq(id, cq, entries=16, more={}) = {
  'nvme.execute': { queue: 0, opcode: 1, prp1: '$ring', cdw10: (entries - 1) * 65536 + id, cdw11: cq * 65536 + 1 } + more,
};
local no_id = { status: 'Invalid Queue Identifier' };
local no_size = { status: 'Invalid Queue Size' };

disk.scenario(
  'regressions.qemu-7.2-over-committed-queues',
  'A driver gets no more queues than there are, and none of more entries than CAP.MQES, of one ' +
  'entry, or with a vector that the function lacks. Mutants nvme-queues-one-more, ' +
  'nvme-cq-size-one, nvme-sq-size-unchecked, nvme-vector-unchecked.',
  properties={ max_ioqpairs: 4, msix_qsize: 5 },
  steps=[
    { 'nvme.enable': {} },
    { 'memory.alloc': { size: 4096, capture: 'ring' } },
    { 'nvme.set_feature': { id: number_of_queues, value: both(65535), expect: { dw0: both(4) } } },
    { 'nvme.get_feature': { id: number_of_queues, expect: { dw0: both(4) } } },
    create_cq(0, more=no_id),
    create_cq(5, more=no_id),
    create_cq(65535, more=no_id),
    create_cq(1, entries=1, more=no_size),
    create_cq(1, entries=2049, more=no_size),
    create_cq(1, entries=65536, more=no_size),
    create_cq(1, more={ cdw11: 5 * 65536 + 3, status: 'Invalid Interrupt Vector' }),
    create_cq(1),
    create_cq(1, more=no_id),
    create_sq(5, 1, more=no_id),
    create_sq(1, 5, more=no_id),
    create_sq(1, 0, more=no_id),
    create_sq(1, 2, more={ status: 'Completion Queue Invalid' }),
    create_sq(1, 1, entries=1, more=no_size),
    create_sq(1, 1, entries=2049, more=no_size),
    create_sq(1, 1, entries=65536, more=no_size),
    create_sq(1, 1),
    { 'nvme.execute': { queue: 0, opcode: 4, cdw10: 1, status: 'Invalid Queue Deletion' }, note: 'mutant nvme-delete-cq-in-use' },
    { 'nvme.set_feature': { id: number_of_queues, value: both(2), status: 'Command Sequence Error' } },
    { 'nvme.disable': {} },
    { 'nvme.enable': {} },
    { 'nvme.create_queues': { count: 4 } },
    { 'nvme.read': { queue: 4, block: 0, blocks: 1, fill: 0 } },
    { 'process.expect_alive': {} },
  ],
)
