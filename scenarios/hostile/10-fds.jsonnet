local lib = import 'lib.libsonnet';

local many(count) = ['event' for i in std.range(1, count)];
local map(fds, errno, size=4096, flags=3, offset=0, note=null) =
  lib.call('DMA_MAP', lib.dma_map(0, size, flags, offset), errno, { fds: fds }, note=note);
local arm(fds, errno, count, note=null) = lib.call(
  'DEVICE_SET_IRQS',
  lib.set_irqs(lib.trigger_eventfd, lib.irqs.msix, 0, count),
  errno,
  { fds: fds },
  note=note
);
local unmap = lib.call('DMA_UNMAP', lib.dma_unmap(0, 4096));
local read_only = 1;
local access_mmap = 4;

lib.scenario(
  '10-fds',
  'Descriptors that are missing, too many, of another kind or shorter than said are refused and ' +
  'closed; memory that is cut off later ends the I/O in it and nothing else.',
  setup=[
    { 'fd.make': { name: 'memory', kind: 'memfd', size: 8192 } },
    { 'fd.make': { name: 'sealed', kind: 'memfd', size: 4096, seals: ['write'] } },
    { 'fd.make': { name: 'event', kind: 'eventfd' } },
    { 'fd.make': { name: 'pipe', kind: 'pipe' } },
    { 'fd.make': { name: 'closed', kind: 'closed' } },
  ],
  attack=
  lib.client(
    map([], 'EINVAL', flags=3 + access_mmap, note='none where one is needed') +
    map(['memory', 'memory'], 'EINVAL', note='two for one window') +
    arm(['event'], 'EINVAL', count=2) +
    arm(many(3), 'EINVAL', count=2) +
    lib.call('REGION_READ',
             lib.access(lib.regions.config, 0, 2),
             'EINVAL',
             { fds: ['memory'] },
             note='one where none is due') +
    lib.call('DEVICE_RESET', [], 'EINVAL', { fds: many(16) }) +
    lib.noted(map(['pipe'], 'EACCES'), 'of another kind: as mmap says') +
    map(['pipe'], 'ENODEV', flags=read_only) +
    map(['closed'], 'EACCES') +
    map(['event'], 'ENODEV') +
    map(['sealed'], 'EPERM', note='memory that may not be written') +
    map(['sealed'], 0, flags=read_only) + unmap +
    arm(['memory'], 'EINVAL', count=1) +
    arm(['event', 'pipe'], 'EINVAL', count=2) +
    map(['memory'], 'EINVAL', offset=8192, note='past its end') +
    map(['memory'], 'EINVAL', size=8193) +
    map(['memory'], 'EINVAL', offset='0x7ffffffffffff000') +
    map(['memory'], 'EINVAL', offset='0xfffffffffffff000') +
    arm(many(16), 0, count=16, note='as many as a message may have, one and the same') +
    arm([], 0, count=16, note='taken back') +
    lib.in_step
  ) +
  lib.doomed([lib.send('DEVICE_GET_INFO', lib.u32([16, 0, 0, 0]), { fds: many(17) })]) +
  lib.doomed([lib.send(
    'DEVICE_SET_IRQS',
    lib.set_irqs(lib.trigger_eventfd, lib.irqs.msix, 0, 64),
    { fds: many(253) }
  )]) +
  [{ 'fd.make': { name: 'shrinks', kind: 'memfd', size: 1048576 } }] +
  lib.client(
    lib.enable_nvme('shrinks') +
    [{ 'fd.truncate': { name: 'shrinks', size: 0 } }] +
    lib.doorbell(1) + lib.csts(3) +
    lib.noted(lib.call('DMA_UNMAP', lib.dma_unmap(lib.sq, 1048576)), 'the window is still there') +
    lib.in_step
  ) +
  [{ 'fd.close': { name: 'shrinks' } }],
  slack='32M',  // Many clients, each with a buffer.
)
