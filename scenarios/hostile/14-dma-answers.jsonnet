local lib = import 'lib.libsonnet';

local fetch(size=64) = lib.dma_request('DMA_READ', lib.sq, size);
local answer(size, data) = lib.dma_reply('DMA_READ', lib.sq, size, data);
local entry = lib.get_features(3);

local ready = 1;
local fatal = 3;

// `steps` follow the fetch of one command. Afterwards the controller can be enabled again.
local fetched(steps, csts, note) = lib.client(
  lib.enable_nvme() + lib.noted(lib.doorbell(1), note) + [fetch()] + steps + lib.csts(csts) +
  lib.call('DMA_UNMAP', lib.unmap_all) + lib.enable_nvme() + lib.in_step
);

lib.scenario(
  '14-dma-answers',
  'A client that answers DMA with less, more, an error, too late, in another order or never. ' +
  'That never is five seconds: DmaMessagesTest.AReadThatIsNeverAnsweredFailsAfterFiveSeconds of ' +
  'devices/server/dma_messages_test.cc waits for them; here the client goes before.',
  attack=
  fetched([answer(64, entry[0:2])], fatal, 'less') +
  fetched([answer(64, entry + [{ u8: 0 }])], fatal, 'more') +
  fetched([answer(64, [{ zeroes: 1048576 }])], fatal, 'much more') +
  fetched([answer(64, [])], fatal, 'nothing of it') +
  fetched([lib.send('DMA_READ', [], { reply: true, id: '$dma' })], fatal, 'an empty message') +
  fetched([lib.send('DMA_READ', [], { errno: 'EFAULT', id: '$dma' })], fatal, 'an error') +
  fetched([
    lib.note(answer(0, entry), 'iova and count of a reply say nothing new'),
    lib.dma_request('DMA_WRITE', lib.cq, 16),
    lib.note(lib.send('DMA_WRITE', [], { reply: true, id: '$dma' }), 'as some clients do'),
  ], ready, 'other fields than asked for') +
  fetched([
    answer(64, entry),
    lib.dma_request('DMA_WRITE', lib.cq, 16),
    lib.send('DMA_WRITE', [], { errno: 'EIO', id: '$dma' }),
  ], fatal, 'an error for a completion') +
  // Two commands complete; the later one is answered first.
  lib.client(
    lib.enable_nvme() + lib.doorbell(2) +
    [fetch(128), answer(128, lib.get_features(1) + lib.get_features(2))] + [
      lib.dma_request('DMA_WRITE', lib.cq, 16, name='first'),
      lib.dma_request('DMA_WRITE', lib.cq + 16, 16, name='second'),
      lib.dma_reply('DMA_WRITE', lib.cq + 16, 16, name='second'),
      lib.dma_reply('DMA_WRITE', lib.cq, 16, name='first'),
    ] + lib.csts(ready) + lib.in_step
  ) +
  // The answer to what the reset took back comes while the next fetch waits for its own.
  lib.client(
    lib.enable_nvme() + lib.doorbell(1) + [lib.dma_request('DMA_READ', lib.sq, 64, name='old')] +
    lib.call('DEVICE_RESET') +
    lib.call('DMA_UNMAP', lib.unmap_all) + lib.enable_nvme() + lib.doorbell(1) + [
      fetch(),
      lib.note(lib.dma_reply('DMA_READ', lib.sq, 64, [{ zeroes: 64 }], name='old'), 'too late'),
      answer(64, entry),
      lib.dma_request('DMA_WRITE', lib.cq, 16),
      lib.dma_reply('DMA_WRITE', lib.cq, 16),
    ] + lib.csts(ready) + lib.in_step
  ) +
  // Never: the client goes, and so does the wait.
  lib.client(lib.enable_nvme() + lib.doorbell(1) + [fetch()]),
  rounds=10,
  slack='64M',  // Messages of a megabyte each.
)
