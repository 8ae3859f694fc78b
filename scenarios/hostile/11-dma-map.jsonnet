local lib = import 'lib.libsonnet';

local map(iova, size, errno=0, flags=3, offset=0, argsz=32, fds=[], note=null) =
  lib.call('DMA_MAP',
           lib.dma_map(iova, size, flags, offset, argsz),
           errno,
           { fds: fds },
           note=note);
local last_page = '0xfffffffffffff000';

lib.scenario(
  '11-dma-map',
  'Windows that are empty, wrap, overlap or have wrong fields are refused; odd ones are taken.',
  setup=[{ 'fd.make': { name: 'memory', kind: 'memfd', size: 16384 } }],
  attack=
  lib.client(
    map(0, 0, 'EINVAL', note='empty') +
    map(last_page, 8192, 'EINVAL', note='wraps') +
    map(last_page, 4097, 'EINVAL') +
    map(4096, '0xffffffffffffffff', 'EINVAL') +
    map(0, 4096, 'EINVAL', offset='0xfffffffffffff001') +
    map(0, 4096, 'EINVAL', argsz=31) +
    map(0, 4096, 'EINVAL', argsz=0) +
    map(0, 4096, 'EINVAL', flags=16, note='unknown flags') +
    map(0, 4096, 'EINVAL', flags='0x80000003') +
    map(0, 4096, 'EOPNOTSUPP', flags=8, fds=['memory'], note='by file I/O only') +
    lib.call('DMA_MAP', lib.dma_map(0, 4096) + lib.u32([0]), 'EINVAL', note='too long') +
    map(65536, 8192, fds=['memory'], note='a window to trip over') +
    map(65536, 8192, 'EEXIST', fds=['memory'], note='the same again') +
    map(65536, 8192, 'EEXIST') +
    map(69632, 4096, 'EEXIST', note='its second page') +
    map(61440, 4097, 'EEXIST', note='its first byte') +
    map(73727, 1, 'EEXIST', note='its last byte') +
    map(0, '0xffffffffffffffff', 'EEXIST', note='around it') +
    map(61440, 4096, note='up to it') +
    map(73728, 4096, note='from its end') +
    map(last_page, 4096, note='the last page there is') +
    map(196611, 1234, offset=77, fds=['memory'], note='unaligned: taken as it lies') +
    map(200000, 4096, argsz=4096, flags=0, note='more room than due, and no right to anything') +
    lib.call('DMA_UNMAP', lib.unmap_all) + lib.in_step
  ) +
  lib.client(
    map(0, 4096) + map(8192, 4096, fds=['memory']) +
    map(16384, 4096, 'ENOSPC', fds=['memory'], note='more windows than were agreed on') +
    map(8192, 4096, 'EEXIST') +
    lib.call('DMA_UNMAP', lib.dma_unmap(0, 4096)) +
    map(16384, 4096, fds=['memory']) + lib.in_step,
    json='{"capabilities":{"max_dma_maps":2}}'
  ),
  slack='32M',  // Many clients, each with a buffer.
)
