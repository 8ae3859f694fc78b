local lib = import 'lib.libsonnet';

local unmap = lib.call('DMA_UNMAP', lib.dma_unmap(lib.sq, 1048576));
local remap(flags) = lib.call('DMA_MAP', lib.dma_map(lib.sq, 1048576, flags));
local read_only = 1;
local write_only = 2;

local fetch(index=0) = lib.dma_request('DMA_READ', lib.sq + 64 * index, 64);
local answer(index=0) =
  lib.dma_reply('DMA_READ', lib.sq + 64 * index, 64, lib.get_features(3));
local works = lib.doorbell(1) + [
  fetch(),
  answer(),
  lib.dma_request('DMA_WRITE', lib.cq, 16),
  lib.dma_reply('DMA_WRITE', lib.cq, 16),
];

lib.scenario(
  '13-unmap-in-flight',
  'A window goes while the device waits for its memory: UNMAP is answered at once, the late ' +
  'answer is dropped, and what is mapped there next has the rights it has. UNMAP that waits for ' +
  'block I/O is StallTest.UnmapIsAnsweredWhenTheIoInItsWindowHasEnded and its neighbours of ' +
  'devices/server/vfio_user_stall_test.cc: here no disk is slow enough.',
  attack=
  lib.client(
    lib.enable_nvme() + lib.doorbell(1) + [fetch()] + unmap +
    [lib.note(answer(), 'too late')] +
    lib.noted(lib.csts(3), 'the queue has no memory any more') + lib.in_step
  ) +
  // The second command finds other rights at the same address.
  lib.client(
    lib.enable_nvme() + works + unmap + remap(read_only) + lib.doorbell(2) +
    [fetch(1), answer(1)] +
    lib.noted(lib.csts(3), 'no DMA_WRITE comes: its completion has no place') + lib.in_step
  ) +
  lib.client(
    lib.enable_nvme() + works + unmap + remap(write_only) + lib.doorbell(2) +
    lib.noted(lib.csts(3), 'no DMA_READ comes') + lib.in_step
  ),
)
