local lib = import 'lib.libsonnet';

local twice(command, payloads, expects) = [
  lib.send(command, payloads[i], { id: 7, hold: i + 1 < std.length(payloads) })
  for i in std.range(0, std.length(payloads) - 1)
] + [lib.expect(command, expect.errno, { id: 7 } + expect.more) for expect in expects];

local config(offset) = lib.access(lib.regions.config, offset, 2);
local found(value) = { errno: 0, more: { at: 16, width: 2, expect: { value: value } } };

lib.scenario(
  '08-same-id',
  'Commands in flight under one id are answered each, in their order: ids belong to the sender.',
  attack=lib.client(
    lib.noted(twice('REGION_READ',
                    [config(0), config(10), config(0)],
                    [found('0xfa51'), found('0x0108'), found('0xfa51')]),
              'vendor, class, vendor') +
    lib.noted(twice('REGION_READ',
                    [config(0), lib.access(99, 0, 2), config(10)],
                    [found('0xfa51'), { errno: 'EINVAL', more: {} }, found('0x0108')]),
              'an error between them') +
    [
      lib.note(lib.send('DEVICE_RESET', [], { id: 7, hold: true }), 'one that is waited for'),
      lib.send('REGION_READ', config(0), { id: 7 }),
      lib.expect('DEVICE_RESET', 0, { id: 7 }),
      lib.vendor_id,
    ] + lib.enable_nvme() + [
      lib.note(lib.send('REGION_WRITE',
                        lib.access(lib.regions.bar0, 4096, 4, lib.u32([1])),
                        { id: 0 }),
               'the id that the server gives its own command next'),
      lib.expect('REGION_WRITE', 0, { id: 0 }),
      lib.dma_request('DMA_READ', lib.sq, 64),
      lib.send('REGION_READ', config(0), { id: '$dma' }),
      lib.vendor_id,
      lib.dma_reply('DMA_READ', lib.sq, 64, lib.get_features(3)),
      lib.dma_request('DMA_WRITE', lib.cq, 16),
      lib.dma_reply('DMA_WRITE', lib.cq, 16),
    ] + lib.in_step
  ),
)
