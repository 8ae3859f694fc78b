local lib = import 'lib.libsonnet';

local ask(index, errno=0, argsz=4096, flags=0, count=0, expect={}, note=null) = lib.call(
  'DEVICE_GET_REGION_IO_FDS',
  lib.u32([argsz, flags, index, count]),
  errno,
  expect=expect,
  note=note
);
local most = 4294967295;

lib.scenario(
  '19-region-io-fds',
  'A client may ask for doorbells again and again, and hands nothing in. That they overlap only ' +
  'a server can bring about: RegionRepliesTest.RefusesBrokenIoFds of ' +
  'protocol/hostile_server_test.cc is such a one, and DoorbellTest of ' +
  'devices/server/vfio_user_stall_test.cc has a device with doorbells, which this one lacks.',
  setup=[{ 'fd.make': { name: 'event', kind: 'eventfd' } }],
  attack=lib.client(
    lib.flat([
      ask(index, argsz=argsz, expect={
        size: 32,
        payload: lib.u32([16, 0, index, 0]),
        expect: { fds: 0 },
      })
      for index in std.range(0, 8)
      for argsz in [16, most]
    ]) +
    ask(9, 'EINVAL', note='no PCI device has that one') +
    ask(most, 'EINVAL') +
    ask(0, 'EINVAL', count=1, note='a count, as in a reply') +
    ask(0, 'EINVAL', count=most) +
    ask(0, 'EINVAL', flags=1) +
    ask(0, 'EINVAL', argsz=15) +
    lib.call('DEVICE_GET_REGION_IO_FDS', lib.u32([4096, 0, 0]), 'EINVAL') +
    lib.call('DEVICE_GET_REGION_IO_FDS',
             lib.u32([4096, 0, 0, 1]) + lib.u64([4096, 4]) + lib.u32([0, 0, 0, 0]) + lib.u64([0]),
             'EINVAL',
             { fds: ['event'] },
             note='a reply of its own') +
    lib.in_step
  ),
)
