local disk = import '../lib/disk.libsonnet';

disk.scenario(
  'nvme.queue-wrap',
  'Queues go round many times; the phase tag turns with each of them.',
  steps=[
    { 'nvme.enable': {} },
    { 'nvme.create_queues': { count: 2, entries: 4 } },
    { repeat: {
      times: 9,
      steps: [
        { 'nvme.write': { block: 0, blocks: 1, seed: 1, queue: 1 } },
        { 'nvme.write': { block: 1, blocks: 1, seed: 1, queue: 2 } },
        { 'nvme.read': { block: 0, blocks: 2, seed: 1, queue: 1 } },
      ],
    } },
    { 'nvme.submit': { opcode: 0, nsid: 1, queue: 1, capture: 'a' }, note: 'three at once: the queue is full' },
    { 'nvme.submit': { opcode: 0, nsid: 1, queue: 1, capture: 'b' } },
    { 'nvme.submit': { opcode: 0, nsid: 1, queue: 1, capture: 'c' } },
    { 'nvme.submit': { opcode: 0, nsid: 1, queue: 1, refused: 'EBUSY' } },
    { 'nvme.wait': { cid: '$c', queue: 1 } },
    { 'nvme.wait': { cid: '$a', queue: 1 } },
    { 'nvme.wait': { cid: '$b', queue: 1 } },
    { 'nvme.flush': { queue: 1 } },
  ],
)
