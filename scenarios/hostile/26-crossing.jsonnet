local lib = import 'lib.libsonnet';

local fetch = lib.dma_request('DMA_READ', lib.sq, 64);
local answer = lib.dma_reply('DMA_READ', lib.sq, 64, lib.get_features(3));
local completed = [
  lib.dma_request('DMA_WRITE', lib.cq, 16),
  lib.dma_reply('DMA_WRITE', lib.cq, 16),
];
local megabyte = [{ zeroes: 1048576 }];
local state(number) = lib.feature(lib.features.state + lib.set, lib.u32([number, 0]));

lib.scenario(
  '26-crossing',
  'The server waits for the answer to its DMA_READ while the client waits for answers of its ' +
  'own: neither holds the other up, whatever crosses, even a change of state that waits for ' +
  'that DMA.',
  attack=
  // All that a client may ask is answered first.
  lib.client(
    lib.enable_nvme() + lib.doorbell(1) + [
      lib.note(lib.send('REGION_READ', lib.access(0, 0, 4), { id: 0 }), 'the same id, on purpose'),
      lib.send('REGION_WRITE', lib.access(lib.regions.rom, 0, 1048576, megabyte), { id: 0 }),
      lib.send('DEVICE_GET_INFO', lib.u32([16, 0, 0, 0]), { id: 0 }),
      lib.send('DMA_MAP', lib.dma_map(67108864, 4096), { id: 0 }),
      lib.send('DMA_UNMAP', lib.dma_unmap(67108864, 4096), { id: 0 }),
      fetch,
    ] + [
      lib.expect(command, 0, { id: 0 })
      for command in ['REGION_READ', 'REGION_WRITE', 'DEVICE_GET_INFO', 'DMA_MAP', 'DMA_UNMAP']
    ] + [answer] + completed + lib.in_step
  ) +
  // The server's command and the client's next one are on their way at once.
  lib.client(
    lib.enable_nvme() + [
      lib.send('REGION_WRITE', lib.access(0, 4096, 4, lib.u32([1])), { no_reply: true }),
      fetch,
      lib.note(lib.send('REGION_WRITE', lib.access(0, 4096, 4, lib.u32([2])), { hold: true }),
               'the answer lies behind the next doorbell'),
      answer,
      lib.expect('REGION_WRITE'),
    ] + [
      lib.dma_request('DMA_WRITE', lib.cq, 16),
      lib.dma_request('DMA_READ', lib.sq + 64, 64, name='next'),
      lib.dma_reply('DMA_READ', lib.sq + 64, 64, lib.get_features(4), name='next'),
      lib.dma_reply('DMA_WRITE', lib.cq, 16),
      lib.dma_request('DMA_WRITE', lib.cq + 16, 16),
      lib.dma_reply('DMA_WRITE', lib.cq + 16, 16),
    ] + lib.in_step
  ) +
  // STOP waits for the DMA; the answer lies behind commands that STOP holds back.
  lib.client(
    lib.enable_nvme() + lib.doorbell(1) + [
      fetch,
      lib.send('DEVICE_FEATURE', state(lib.states.stop), { id: 5 }),
      lib.send('REGION_READ', lib.access(lib.regions.config, 0, 2), { id: 6 }),
      answer,
      lib.note(lib.expect('DEVICE_FEATURE', 0, { id: 5 }), 'the command itself is put off'),
      lib.vendor_id,
    ] + lib.call('DEVICE_FEATURE', state(lib.states.running)) + [fetch, answer] + completed +
    lib.csts(1)
  ),
  rounds=10,
  slack='32M',  // Messages of a megabyte each.
)
