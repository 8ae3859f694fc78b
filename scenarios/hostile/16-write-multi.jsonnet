local lib = import 'lib.libsonnet';

local entry(region, offset, count, byte) =
  lib.u64([offset]) + lib.u32([region, count]) + [{ u8: byte } for i in std.range(1, 8)];
local multi(count, entries, errno=0, note=null) = lib.call(
  'REGION_WRITE_MULTI',
  lib.u64([count]) + entries,
  errno,
  expect=if errno == 0 then { size: 24, at: 0, width: 8, expect: { value: count } } else {},
  note=note
);
// Interrupt Line keeps what is written.
local line = 60;
local line_is(value) = lib.read(lib.regions.config, line, 1, value);
local good = entry(lib.regions.config, line, 1, 90);

lib.scenario(
  '16-write-multi',
  'REGION_WRITE_MULTI does all of what it says, in order, across regions and past the ends of ' +
  'them, or nothing.',
  attack=lib.client(
    lib.noted(lib.call('DEVICE_RESET'), 'ASQ can be written') +
    lib.write(lib.regions.config, line, 1, 1) +
    multi(0, [], note='of nothing') +
    multi(2, good, 'EINVAL', note='more than it carries') +
    multi(0, good, 'EINVAL') +
    multi(1, good[0:3], 'EINVAL', note='half an entry') +
    multi(1, good + [{ u8: 0 }], 'EINVAL') +
    multi('0xffffffffffffffff', good, 'EINVAL') +
    multi('0x2000000000000001', good, 'EINVAL', note='times 24 is 24, if it wraps') +
    multi(2, good + entry(0, 20, 0, 0), 'EINVAL', note='an entry of nothing') +
    multi(2, good + entry(0, 20, 9, 0), 'EINVAL', note='and one of too much') +
    multi(2, good + entry(0, 20, '0xffffffff', 0), 'EINVAL') +
    lib.call('REGION_WRITE_MULTI', [{ zeroes: 7 }], 'EINVAL') +
    lib.noted(line_is(1), 'of all these, nothing was done') +
    multi(
      8,
      good + entry(lib.regions.bar0, 40, 8, 119) + entry(77, 0, 4, 1) +
      entry(lib.regions.rom, 0, 4, 1) + entry(lib.regions.bar0, '0xfffffffffffffffc', 8, 1) +
      entry(lib.regions.bar0, 16382, 4, 1) + entry('0xffffffff', '0xffffffffffffffff', 8, 1) +
      entry(lib.regions.config, line, 1, 91),
      note='guests get these wrong: dropped, one by one'
    ) +
    line_is(91) +
    lib.read(lib.regions.bar0, 40, 8, '0x7777777777777000') +
    [
      lib.send('REGION_WRITE_MULTI',
               lib.u64([2]) + good + entry(0, 20, 9, 0),
               { no_reply: true }),
    ] + line_is(91) +
    multi(2000,
          [{ hex: std.repeat('000000000000000000000000' + '01000000' + '0000000000000000', 2000) }],
          note='very many') +
    lib.in_step
  ),
)
