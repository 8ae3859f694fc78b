local lib = import 'lib.libsonnet';

local fetch = lib.dma_request('DMA_READ', lib.sq, 64);
local late = lib.note(lib.dma_reply('DMA_READ', lib.sq, 64, lib.get_features(3)), 'too late');
local reset = lib.call('DEVICE_RESET');
local state_is(state) = lib.call('DEVICE_FEATURE',
                                 lib.feature(lib.features.state + lib.get),
                                 expect={ at: 8, width: 4, expect: { value: state } });
local set_state(state, errno=0) =
  lib.call('DEVICE_FEATURE', lib.feature(lib.features.state + lib.set, lib.u32([state, 0])), errno);
local running = lib.states.running;

lib.scenario(
  '20-reset',
  'RESET while the device waits for memory, twice in a row, in each state of migration, and by ' +
  'a client that does not wait for its end.',
  attack=
  lib.client(
    lib.enable_nvme() + lib.doorbell(1) + [fetch] +
    lib.noted(reset, 'does not wait for the answer') + [late] + lib.csts(0) +
    [
      lib.note(lib.send('DEVICE_RESET', [], { id: 1, hold: true }), 'thrice in one message'),
      lib.send('DEVICE_RESET', [], { id: 2, hold: true }),
      lib.send('DEVICE_RESET', [], { id: 3 }),
    ] + [lib.expect('DEVICE_RESET', 0, { id: id }) for id in [1, 2, 3]] +
    lib.csts(0) +
    lib.call('DMA_UNMAP', lib.unmap_all) + lib.enable_nvme() + lib.doorbell(1) + [
      fetch,
      lib.dma_reply('DMA_READ', lib.sq, 64, lib.get_features(3)),
      lib.dma_request('DMA_WRITE', lib.cq, 16),
    ] + lib.noted(reset, 'between a command and its completion') + [
      lib.dma_reply('DMA_WRITE', lib.cq, 16),
    ] + lib.csts(0) + lib.in_step
  ) +
  lib.client(lib.flat([
    set_state(lib.states[state]) + lib.noted(reset, 'in ' + state) + state_is(running)
    for state in ['stop', 'stop_copy', 'resuming']
  ]) + set_state(lib.states.resuming) + set_state(running, 'EINVAL') + state_is(0) +
             lib.noted(reset, 'the only way out of ERROR') + state_is(running) + lib.in_step) +
  lib.client(
    lib.enable_nvme() + lib.doorbell(1) + [fetch, lib.note(lib.send('DEVICE_RESET'), 'and is gone')]
  ),
)
