local lib = import 'lib.libsonnet';

local capabilities(text) = '{"capabilities":{%s}}' % text;
local read(count, errno=0, note=null) =
  lib.call('REGION_READ', lib.access(lib.regions.config, 0, count), errno, note=note);
local write(count, errno=0) = lib.call(
  'REGION_WRITE',
  lib.access(lib.regions.rom, 0, count, [{ zeroes: count }]),
  errno
);
local map(iova, errno=0) = lib.call('DMA_MAP', lib.dma_map(iova, 4096), errno);
local quarter(index) = [
  lib.dma_request('DMA_READ', lib.sq + 16 * index, 16),
  lib.dma_reply('DMA_READ', lib.sq + 16 * index, 16, [{ zeroes: 16 }]),
];
local stop_copy = lib.feature(lib.features.state + lib.set, lib.u32([lib.states.stop_copy, 0]));

lib.scenario(
  '30-broken-promises',
  'What was agreed on in VERSION is kept to by the server and demanded of the client: sizes of ' +
  'transfers, numbers of windows and of fds, extensions.',
  setup=[{ 'fd.make': { name: 'event', kind: 'eventfd' } }],
  attack=
  lib.client(
    read(16) + read(17, 'EINVAL', 'more than it said itself') + read(1048576, 'EINVAL') +
    write(16) + write(17, 'EINVAL') +
    lib.enable_nvme() + lib.doorbell(1) +
    lib.noted(quarter(0), 'the server asks for no more at once, either') +
    lib.flat([quarter(index) for index in [1, 2]]) + [
      lib.dma_request('DMA_READ', lib.sq + 48, 16),
      lib.note(lib.dma_reply('DMA_READ', lib.sq + 48, 4096, [{ zeroes: 4096 }]), 'far more'),
    ] + lib.csts(3) +
    lib.call('DEVICE_FEATURE', stop_copy) +
    lib.call('MIG_DATA_READ', lib.u32([4096, 17]), 'EINVAL') +
    lib.call('MIG_DATA_READ', lib.u32([4096, 16]), expect={ size: 16 + 8 + 16 }) +
    lib.call('DEVICE_RESET') + lib.in_step,
    json=capabilities('"max_data_xfer_size":16')
  ) +
  lib.client(
    read(1048576, note='a client that promises more is not believed') + read(1048577, 'EINVAL'),
    json=capabilities('"max_data_xfer_size":9007199254740993')
  ) +
  lib.client(
    map(0) + map(4096, 'ENOSPC') + lib.call('DMA_UNMAP', lib.unmap_all) + map(4096),
    json=capabilities('"max_dma_maps":1')
  ) +
  lib.client(map(0, 'ENOSPC'), json=capabilities('"max_dma_maps":0')) +
  lib.client(
    lib.call('DEVICE_SET_IRQS',
             lib.set_irqs(lib.trigger_eventfd, lib.irqs.msix, 0, 16),
             send={ fds: ['event' for i in std.range(1, 16)] },
             note='what it can receive itself bounds nothing') + lib.in_step,
    json=capabilities('"max_msg_fds":0')
  ) +
  lib.client(
    lib.call(32770, lib.u64([1]), 'EOPNOTSUPP', note='an extension that was declined') +
    lib.call('DEVICE_SET_IRQS', lib.set_irqs(65536 + 32, lib.irqs.msix, 0, 1), 'EINVAL') +
    lib.in_step,
    json=capabilities('"farside":{"clock":false,"interrupt":false}')
  ) +
  lib.doomed(
    lib.negotiate(capabilities('"max_data_xfer_size":16')) +
    [lib.send('REGION_WRITE', lib.access(0, 0, 4), { size: 1052673 })],
    negotiated=false
  ),
  slack='128M',  // Messages of a megabyte each.
)
