local lib = import 'lib.libsonnet';

local most = 4294967295;

// `fixed` is the command's structure, of `size` bytes, behind argsz.
local get(command, fixed, size) =
  lib.flat([
    lib.call(command, lib.u32([argsz]) + fixed, 'EINVAL', note='argsz %d' % argsz)
    for argsz in [0, 1, size - 1]
  ]) +
  lib.flat([
    lib.call(command,
             lib.u32([argsz]) + fixed,
             0,
             expect={ size: 16 + size, at: 0, width: 4, expect: { value: size } },
             note='argsz %d' % argsz)
    for argsz in [size, size + 1, 1048576, most]
  ]) +
  lib.call(command, lib.u32([size]) + fixed[1:], 'EINVAL', note='too short') +
  lib.call(command, lib.u32([size]), 'EINVAL');

lib.scenario(
  '18-argsz',
  'The replies to GET_* have what there is, whatever room the client says it left; too little ' +
  'is an error.',
  attack=lib.client(
    get('DEVICE_GET_INFO', lib.u32([0, 0, 0]), 16) +
    get('DEVICE_GET_REGION_INFO', lib.u32([0, 0, 0]) + lib.u64([0, 0]), 32) +
    get('DEVICE_GET_IRQ_INFO', lib.u32([0, 2, 0]), 16) +
    get('DEVICE_GET_REGION_IO_FDS', lib.u32([0, 0, 0]), 16) +
    lib.flat([
      lib.call('DEVICE_GET_REGION_INFO', lib.region_info(index, 4096), errno)
      for errno in ['EINVAL']
      for index in [9, most]
    ]) +
    lib.call('DEVICE_GET_IRQ_INFO', lib.u32([16, 0, 5, 0]), 'EINVAL') +
    lib.call('DEVICE_GET_IRQ_INFO', lib.u32([16, 0, most, 0]), 'EINVAL') +
    // DEVICE_FEATURE tells how much it takes, in its first 8 bytes.
    lib.call('DEVICE_FEATURE',
             lib.feature(lib.features.migration + lib.get, argsz=8),
             expect={ size: 24, at: 0, width: 4, expect: { value: 16 } }) +
    lib.call('DEVICE_FEATURE',
             lib.feature(lib.features.migration + lib.get, argsz=most),
             expect={ size: 32, at: 0, width: 4, expect: { value: 16 } }) +
    lib.call('DEVICE_FEATURE', lib.feature(lib.features.migration + lib.get, argsz=7), 'EINVAL') +
    lib.call('DEVICE_FEATURE', lib.feature(lib.features.migration + lib.get, argsz=0), 'EINVAL') +
    lib.in_step
  ),
)
