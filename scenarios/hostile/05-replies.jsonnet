local lib = import 'lib.libsonnet';

local read = lib.access(lib.regions.config, 0, 2);
local fetch = lib.dma_request('DMA_READ', lib.sq, 64);
local answer(more={}) = lib.dma_reply('DMA_READ', lib.sq, 64, lib.get_features(3), more=more);
// The server numbers its own commands from 0, and has 64 in flight at most.
local strange_ids = [1, 63, 64, 65535];

lib.scenario(
  '05-replies',
  'Replies that nobody asked for are dropped, a type that is none ends the channel, and an ' +
  'answer counts once and under its id only.',
  attack=
  lib.client([
    lib.note(lib.send('REGION_READ', read, { reply: true }), 'a request that says it is a reply'),
  ] + [
    lib.send(command, lib.u64([0, 64]) + [{ zeroes: 64 }], { reply: true, id: id })
    for command in ['DMA_READ', 'DMA_WRITE', 'VERSION', 77]
    for id in [0] + strange_ids
  ] + lib.in_step) +
  lib.doomed([lib.send('REGION_READ', read, { flags: 2 })]) +
  lib.doomed([lib.send('REGION_READ', read, { flags: 15 })]) +
  lib.client(
    lib.enable_nvme() + lib.doorbell(1) + [fetch] +
    [lib.note(answer({ id: id }), 'another id') for id in strange_ids] +
    [lib.note(lib.dma_reply('DMA_WRITE', lib.sq, 64), 'the id, but another command')] +
    [answer(), lib.note(answer(), 'twice')] +
    [lib.dma_request('DMA_WRITE', lib.cq, 16), lib.dma_reply('DMA_WRITE', lib.cq, 16)] +
    lib.noted([lib.dma_reply('DMA_WRITE', lib.cq, 16)], 'twice') +
    lib.csts(1) + lib.in_step
  ),
)
