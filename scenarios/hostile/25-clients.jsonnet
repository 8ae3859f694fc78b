local lib = import 'lib.libsonnet';

local map = lib.call('DMA_MAP', lib.dma_map(lib.sq, 1048576));
local command(index) = lib.doorbell(index + 1) + [
  lib.dma_request('DMA_READ', lib.sq + 64 * index, 64),
  lib.dma_reply('DMA_READ', lib.sq + 64 * index, 64, lib.get_features(index)),
  lib.dma_request('DMA_WRITE', lib.cq + 16 * index, 16),
  lib.dma_reply('DMA_WRITE', lib.cq + 16 * index, 16),
];

local refused = [lib.connect('intruder'), lib.closed('intruder'), lib.disconnect('intruder')];

lib.scenario(
  '25-clients',
  'A second client is hung up on and the first goes on; one that vanishes takes its windows and ' +
  'interrupts along, and the next finds the device as it was.',
  setup=[
    { 'fd.make': { name: 'memory', kind: 'memfd', size: 65536 } },
    { 'fd.make': { name: 'event', kind: 'eventfd' } },
  ],
  attack=
  [lib.connect()] + lib.noted(refused, 'before VERSION, too') + lib.negotiate() + refused +
  lib.enable_nvme() + command(0) +
  lib.call('DMA_MAP', lib.dma_map(67108864, 65536), send={ fds: ['memory'] }) +
  lib.call('DEVICE_SET_IRQS',
           lib.set_irqs(lib.trigger_eventfd, lib.irqs.msix, 0, 2),
           send={ fds: ['event', 'event'] }) +
  [
    lib.connect('intruder'),
    lib.note(lib.closed('intruder'), 'and what it says is not heard'),
  ] + command(1) + [lib.disconnect('intruder')] + lib.in_step +
  lib.gone +
  // The queues are where they were, and their memory is not.
  lib.client(
    lib.csts(1) + map + command(2) +
    lib.call('DMA_MAP',
             lib.dma_map(67108864, 65536),
             send={ fds: ['memory'] },
             note='the old one is not in the way')
  ) +
  lib.client(
    lib.csts(1) + lib.noted(lib.doorbell(4), 'without memory') + lib.csts(3) + lib.in_step
  ),
  once=[{ 'log.expect': { pattern: 'a client was refused' } }],
  slack='32M',  // Many clients, each with a buffer.
) {
  devices+: [{ id: 'intruder', process: 'disk', socket: 'attacked.sock', connect: false }],
}
