local lib = import 'lib.libsonnet';

// The largest message: 1 MiB of data, and room for the fields in front of it.
local largest = 1048576 + 4096;

// The stream is out of step: nothing more can be said on it.
local broken(size) = lib.doomed([
  lib.send('REGION_READ', lib.access(lib.regions.config, 0, 4), { size: size }),
]);

lib.scenario(
  '01-header-size',
  'A header that claims less than itself or more than a message may have ends the channel; one ' +
  'that lacks its body is answered.',
  attack=lib.flat([
    broken(size)
    for size in [0, 1, 15, largest + 1, 2147483648, 4294967295]
  ]) + lib.client(
    lib.call('REGION_READ', errno='EINVAL', note='16 bytes where 32 are due') +
    lib.call('REGION_READ',
             lib.access(lib.regions.config, 0, 4)[0:2],
             errno='EINVAL',
             note='one field too few') +
    lib.call('DEVICE_GET_INFO', lib.u32([16, 0, 0]), errno='EINVAL') +
    lib.call('DEVICE_RESET', lib.u32([0]), errno='EINVAL', note='a body where none is due') +
    lib.in_step
  ),
  rounds=10,
)
