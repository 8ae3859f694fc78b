local lib = import 'lib.libsonnet';

local map(iova, fds=[]) = lib.call('DMA_MAP', lib.dma_map(iova, 8192), 0, { fds: fds });
// A good one echoes its request in a message of 40 bytes.
local unmap(iova, size, errno=0, flags=0, argsz=24, note=null) =
  local request = lib.dma_unmap(iova, size, flags, argsz);
  local reply = if errno == 0 then { size: 40, payload: request } else { size: 16 };
  lib.call('DMA_UNMAP', request, errno, expect=reply, note=note);
local all = 2;

lib.scenario(
  '12-dma-unmap',
  'A part of a window is never unmapped, several are, and so is what was never mapped.',
  setup=[{ 'fd.make': { name: 'memory', kind: 'memfd', size: 8192 } }],
  attack=lib.client(
    unmap(0, 4096, note='of nothing, as QEMU does with a vIOMMU') +
    unmap(0, 0, flags=all) +
    map(65536, ['memory']) + map(73728) + map(131072, ['memory']) +
    unmap(65536, 4096, 'EINVAL', note='a part') +
    unmap(69632, 4096, 'EINVAL') +
    unmap(69632, 8192, 'EINVAL', note='parts of two') +
    unmap(65536, 12288, 'EINVAL', note='one, and a part') +
    unmap(0, 65537, 'EINVAL') +
    unmap(65536, 0, 'EINVAL', note='empty') +
    unmap('0xfffffffffffff000', 4097, 'EINVAL', note='wraps') +
    unmap(65536, 8192, 'EINVAL', argsz=23) +
    unmap(65536, 8192, 'EINVAL', flags=1, note='a bitmap of migration version 1') +
    unmap(65536, 8192, 'EINVAL', flags=4) +
    unmap(65536, 8192, 'EINVAL', flags=all, note='all, but with a range') +
    unmap(0, 8192, 'EINVAL', flags=all) +
    lib.call('DMA_UNMAP', lib.dma_unmap(0, 0)[0:3], 'EINVAL', note='too short') +
    lib.call('DMA_MAP', lib.dma_map(65536, 1), 'EEXIST', note='nothing has gone') +
    unmap(4096, 1048576, note='three at once, and what lies between them') +
    unmap(65536, 8192, note='again') +
    map(65536, ['memory']) +
    unmap(0, '0xffffffffffffffff', note='nearly everything') +
    map(0, ['memory']) + map(65536) +
    unmap(0, 0, flags=all) + unmap(0, 0, flags=all) +
    map(0, ['memory']) + lib.in_step
  ),
)
