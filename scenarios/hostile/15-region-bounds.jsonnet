local lib = import 'lib.libsonnet';

local read(region, offset, count, errno=0, expect={}, note=null) =
  lib.call('REGION_READ', lib.access(region, offset, count), errno, expect=expect, note=note);
local write(region, offset, count, size=count, errno=0, note=null) =
  lib.call('REGION_WRITE',
           lib.access(region, offset, count, [{ zeroes: size }]),
           errno,
           note=note);

// What a guest gets wrong is no error: reads give ones, writes are dropped.
local outside(region, offset, count, note=null) =
  read(region,
       offset,
       count,
       expect={ size: 32 + count, at: 16, width: 1, expect: { value: 255 } },
       note=note) +
  write(region, offset, count);

local bar0_size = 16384;
local past_end = '0xffffffffffffffff';

lib.scenario(
  '15-region-bounds',
  'Accesses outside of a region do nothing; regions and sizes that no guest can cause are ' +
  'errors.',
  attack=lib.client(
    lib.call('DEVICE_GET_REGION_INFO',
             lib.region_info(lib.regions.bar0),
             expect={ at: 16, width: 8, expect: { value: bar0_size } },
             note='what the offsets below count on') +
    outside(lib.regions.bar0, bar0_size, 4, note='behind the end') +
    outside(lib.regions.bar0, bar0_size - 2, 4, note='across it') +
    outside(lib.regions.bar0, past_end, 1) +
    outside(lib.regions.bar0, past_end, 4, note='wraps to the start') +
    outside(lib.regions.config, '0xfffffffffffffffe', 8) +
    outside(lib.regions.config, 4096, 1) +
    outside(lib.regions.config, 0, 1048576, note='all of it and much more') +
    outside(lib.regions.rom, 0, 4, note='a region that the device lacks') +
    outside(8, 0, 4) +
    outside(1, 0, 4, note='the upper half of a 64-bit BAR') +
    read(9, 0, 4, 'EINVAL', note='no PCI device has that one') +
    read('0xffffffff', 0, 4, 'EINVAL') +
    write(9, 0, 4, errno='EINVAL') +
    read(0, 0, 0, 'EINVAL', note='nothing') +
    write(0, 0, 0, errno='EINVAL') +
    read(0, 0, 1048577, 'EINVAL', note='more than was agreed on') +
    read(0, 0, '0xffffffff', 'EINVAL') +
    write(0, 0, 1048577, errno='EINVAL') +
    write(0, 0, 4, 3, 'EINVAL', note='another count than bytes') +
    write(0, 0, 3, 4, 'EINVAL') +
    write(0, 0, '0xffffffff', 4, 'EINVAL') +
    lib.call('REGION_READ', lib.access(0, 0, 4) + lib.u32([0]), 'EINVAL') +
    lib.in_step
  ),
  rounds=5,
  slack='64M',  // Messages of a megabyte each.
)
