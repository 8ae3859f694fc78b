local disk = import '../lib/disk.libsonnet';

disk.scenario(
  'nvme.intx',
  'A driver with INTx only: asserted until the completion is taken, masked by INTMS and by the Command register.',
  steps=[
    { 'nvme.enable': { completion: 'intx' } },
    { 'nvme.create_queues': { count: 1, entries: 16 } },
    { repeat: {
      times: 5,
      steps: [
        { 'nvme.write': { block: 3, blocks: 1, seed: 6 } },
        { 'nvme.read': { block: 3, blocks: 1, seed: 6 } },
      ],
    } },
    { 'config.read': { offset: 6, size: 2, expect: { value: 0, mask: '0x8' } }, note: 'Interrupt Status is off again' },
    { 'irq.expect': { index: 'intx', count: 1, at_least: true } },
    { 'bar.write': { bar: 0, offset: '0x0c', value: 1 }, note: 'INTMS' },
    { 'nvme.submit': { opcode: 0, nsid: 1, capture: 'cid' } },
    { 'irq.expect': { index: 'intx', count: 0 } },
    { 'bar.write': { bar: 0, offset: '0x10', value: 1 }, note: 'INTMC' },
    { 'irq.expect': { index: 'intx', count: 1 } },
    { 'config.read': { offset: 6, size: 2, expect: { value: '0x8', mask: '0x8' } }, note: 'Interrupt Status is on' },
    { 'nvme.wait': { cid: '$cid' } },
  ],
)
