local lib = import 'lib.libsonnet';

local start(page, ranges, errno=0, count=std.length(ranges), note=null) = lib.call(
  'DEVICE_FEATURE',
  lib.feature(lib.features.log_start + lib.set,
              lib.u64([page]) + lib.u32([count, 0]) +
              lib.flat([lib.u64(range) for range in ranges])),
  errno,
  note=note
);
local stop = lib.call('DEVICE_FEATURE', lib.feature(lib.features.log_stop + lib.set));
local report(iova, length, page, errno=0, argsz=4096, expect={}, note=null) = lib.call(
  'DEVICE_FEATURE',
  lib.feature(lib.features.log_report + lib.get, lib.u64([iova, length, page]), argsz),
  errno,
  expect=expect,
  note=note
);
// Bits of the first 64 pages, behind 8 bytes of header and 24 of the range.
local bits(value) = { size: 56, at: 32, width: 8, expect: { value: value } };
local most = '0xffffffffffffffff';

lib.scenario(
  '24-dirty-log',
  'A dirty log that is started twice, with pages that are none or ranges that wrap, overlap or ' +
  'are too many, and reports of what is not logged.',
  attack=lib.client(
    report(0, 4096, 4096, 'EINVAL', note='before it is on') +
    lib.noted(stop, 'twice, though it is off') + stop +
    start(0, [[0, 4096]], 'EINVAL', note='no page size') +
    start(1, [[0, 4096]], 'EINVAL') +
    start(2048, [[0, 4096]], 'EINVAL') +
    start(4097, [[0, 4096]], 'EINVAL') +
    start(most, [[0, 4096]], 'EINVAL') +
    start(4096, [[0, 0]], 'EINVAL', note='no range') +
    start(4096, [['0xfffffffffffff000', 4097]], 'EINVAL', note='wraps') +
    start(4096, [[0, 8192], [4096, 4096]], 'EINVAL', note='overlap') +
    start(4096, [[0, most]], 'E2BIG', note='too many pages') +
    start(4096, [[8192 * i, 4096] for i in std.range(0, 256)], 'E2BIG', note='too many ranges') +
    start(4096, [[0, 4096]], 'EINVAL', count=2, note='fewer ranges than said') +
    start(4096, [[0, 4096]], 'EINVAL', count=0) +
    start(4096, [[0, 4096]], 'EINVAL', count=4294967295) +
    lib.call('DEVICE_FEATURE',
             lib.feature(lib.features.log_start + lib.set, [{ zeroes: 15 }]),
             'EINVAL') +
    report(0, 4096, 4096, 'EINVAL', note='none of these began a log') +
    start(4096, [[lib.sq, 262144]], note='not mapped yet: logged all the same') +
    start(4096, [[lib.sq, 262144]], 'EBUSY', note='twice') +
    start(0, [], 'EBUSY') +
    report(lib.sq, 262144, 4096, expect=bits(0)) +
    lib.noted(report(0, 4096, 4096, 'EINVAL'), 'not logged') +
    report(lib.sq + 4096, 262144, 4096, 'EINVAL', note='in part') +
    report(lib.sq, 0, 4096, 'EINVAL') +
    report(lib.sq, 4096, 0, 'EINVAL') +
    report(lib.sq, 4096, 2048, 'EINVAL', note='finer than the log') +
    report(most, most, '0x8000000000000000', 'EINVAL') +
    report(0, '0x1000000000000', 4096, 'E2BIG', note='more bits than a message holds') +
    lib.call('DEVICE_FEATURE',
             lib.feature(lib.features.log_report + lib.get, [{ zeroes: 23 }]),
             'EINVAL') +
    lib.enable_nvme('queues') + lib.doorbell(1) +
    [{ repeat: {
      times: 100,
      steps: report(lib.sq, 262144, 4096, argsz=40, expect={ at: 32, width: 8, capture: 'bits' }),
      until: { of: '$bits', value: 2 },
    }, note: 'the completion lies in the second page' }] +
    report(lib.sq, 262144, 4096, expect=bits(0), note='reported once') +
    stop + report(lib.sq, 4096, 4096, 'EINVAL') +
    start(4096, [[lib.sq, 4096]]) + lib.in_step
  ) +
  // The client that left the log on is gone, and the log with it.
  lib.client(report(lib.sq, 4096, 4096, 'EINVAL') + start(4096, [[lib.sq, 4096]])),
  setup=[{ 'fd.make': { name: 'queues', kind: 'memfd', size: 1048576 } }],
)
