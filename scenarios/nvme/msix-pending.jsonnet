local disk = import '../lib/disk.libsonnet';

disk.scenario(
  'nvme.msix-pending',
  'An MSI-X vector without an eventfd becomes pending, shows in the PBA, and is signalled when it gets one.',
  steps=[
    { 'nvme.enable': {} },
    { 'nvme.create_queues': { count: 2, entries: 16 } },
    { 'nvme.flush': { queue: 1 } },
    { 'irq.expect': { index: 'msix', vector: 1, count: 1 } },
    { 'irq.disarm': { index: 'msix', start: 1, count: 1 }, note: 'as a client does for a masked vector' },
    { 'nvme.submit': { opcode: 0, nsid: 1, queue: 1, capture: 'a' } },
    { 'nvme.flush': { queue: 2 }, note: 'the other vector works on' },
    { 'irq.expect': { index: 'msix', vector: 1, count: 0 } },
    { repeat: {
      steps: [{ 'bar.read': { bar: 4, offset: '0x1000', size: 8, capture: 'pba' } }],
      until: { of: '$pba', value: 2 },
    }, note: 'pending bit 1' },
    { 'irq.arm': { index: 'msix', start: 1, count: 1 } },
    { 'irq.expect': { index: 'msix', vector: 1, count: 1 } },
    { 'bar.read': { bar: 4, offset: '0x1000', size: 8, expect: { value: 0 } } },
    { 'nvme.wait': { cid: '$a', queue: 1 } },
    { 'irq.trigger': { index: 'msix', start: 2, count: 1 }, note: 'a test signal' },
    { 'irq.expect': { index: 'msix', vector: 2, count: 2 } },
  ],
)
