local lib = import 'lib.libsonnet';

// Nothing comes back but the answer to what is sent next.
local silent(command, payload=[], fds=[]) =
  [lib.send(command, payload, { no_reply: true, fds: fds, id: 99 })] + lib.in_step;

local state(number) = lib.feature(lib.features.state + lib.set, lib.u32([number, 0]));

lib.scenario(
  '07-no-reply',
  'Commands that want no reply get none, even those whose only purpose is a reply or an error.',
  setup=[
    { 'fd.make': { name: 'memory', kind: 'memfd', size: 4096 } },
    { 'fd.make': { name: 'event', kind: 'eventfd' } },
  ],
  attack=
  [lib.connect()] +
  lib.noted(silent('VERSION', lib.version_payload()), 'counts all the same') +
  silent('DMA_MAP', lib.dma_map(0, 4096), ['memory']) +
  lib.call('DMA_MAP', lib.dma_map(0, 4096), 'EEXIST', note='the window is there') +
  silent('DMA_MAP', lib.dma_map(0, 4096)) +
  silent('DMA_UNMAP', lib.dma_unmap(0, 4096)) +
  silent('DMA_UNMAP', lib.dma_unmap(0, 0)) +
  silent('DEVICE_GET_INFO', lib.u32([16, 0, 0, 0])) +
  silent('DEVICE_GET_REGION_INFO', lib.region_info(0)) +
  silent('DEVICE_GET_REGION_IO_FDS', lib.u32([4096, 0, 0, 0])) +
  silent('DEVICE_GET_IRQ_INFO', lib.u32([16, 0, 2, 0])) +
  silent('DEVICE_SET_IRQS', lib.set_irqs(lib.trigger_eventfd, lib.irqs.msix, 0, 1), ['event']) +
  silent('DEVICE_SET_IRQS', lib.set_irqs(lib.trigger_none, lib.irqs.msix, 999, 1)) +
  silent('REGION_READ', lib.access(lib.regions.config, 0, 4)) +
  silent('REGION_READ', lib.access(99, 0, 4)) +
  silent('REGION_WRITE', lib.access(lib.regions.config, 60, 1, [{ u8: 9 }])) +
  silent('REGION_WRITE', lib.access(lib.regions.config, 60, 0)) +
  silent('REGION_WRITE_MULTI', lib.u64([0])) +
  silent('DMA_READ', lib.u64([0, 4])) +
  silent('DEVICE_RESET') +
  silent('DEVICE_FEATURE', lib.feature(lib.features.migration + lib.get)) +
  silent('DEVICE_FEATURE', state(lib.states.stop_copy)) +
  silent('MIG_DATA_READ', lib.u32([4096, 64])) +
  silent('DEVICE_FEATURE', state(lib.states.resuming)) +
  silent('MIG_DATA_WRITE', lib.u32([8, 4]) + lib.u32([0])) +
  lib.noted(silent('DEVICE_FEATURE', state(lib.states.running)), 'fails: that was no state') +
  silent('DEVICE_RESET') +
  silent(77) +
  lib.gone +
  lib.noted([lib.connect(), lib.send('VERSION', lib.version_payload('{'), { no_reply: true })],
            'a VERSION that fails in silence') +
  [lib.note(lib.closed() { 'channel.expect_closed'+: { expect: { messages: 0 } } }, 'not a word'),
   lib.disconnect()],
)
