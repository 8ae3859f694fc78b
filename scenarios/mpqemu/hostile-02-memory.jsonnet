local mpqemu = import '../lib/mpqemu.libsonnet';
local lsi = import '../lib/lsi.libsonnet';

// `regions`: [address, size, offset], as hexadecimal digits.
local none = mpqemu.le(0, 8);
local table(regions) = std.join('', [
  std.join('', [region[column] for region in regions]) + std.repeat(none, 8 - std.length(regions))
  for column in [0, 1, 2]
]);
local page = mpqemu.le(4096, 8);
local made = [
  { 'fd.make': { name: 'ram', kind: 'memfd', size: 65536 } },
  { 'fd.make': { name: 'irq', kind: 'eventfd' } },
  { 'fd.make': { name: 'pipe', kind: 'pipe' } },
  { 'fd.make': { name: 'closed', kind: 'closed' } },
];
local memory(regions, fds) = [
  { 'frame.send': { mpqemu: 'SYNC_SYSMEM', payload: table(regions), fds: fds } },
];
local irqfd(fds) = [{ 'frame.send': { mpqemu: 'SET_IRQFD', fds: fds } }];
local many(fd, count) = [fd for i in std.range(1, count)];

mpqemu.hostile(
  'mpqemu.hostile-02-memory',
  'Memory and interrupts whose descriptors are missing or too many end the channel; those that ' +
  'are of another kind, or regions that wrap, are empty, overlap or lie beyond their file, are ' +
  'left out, and the device lives on.',
  mpqemu.farside('lsi0', lsi.arguments([lsi.memory()])),
  [
    made + mpqemu.nonsense(memory([[none, page, none]], fds))
    for fds in [[], many('ram', 9), many('ram', 16), many('ram', 17)]
  ] + [
    made + mpqemu.nonsense(irqfd(fds))
    for fds in [[], ['irq'], ['irq', 'irq', 'irq'], many('irq', 16)]
  ] + [
    made + mpqemu.harmless(std.flattenArrays([
      memory([[mpqemu.ones(8), page, none]], ['ram']),
      [{ 'log.expect': { pattern: '0xffffffffffffffff.0x1000 is empty, wraps' } }],
      memory([['00f0ffffffffffff', mpqemu.le(8192, 8), none]], ['ram']),
      memory([[page, mpqemu.ones(8), none]], ['ram']),
      memory([[none, none, none]], ['ram']),
      memory([[none, page, mpqemu.le(65536, 8)]], ['ram']),
      memory([[none, page, mpqemu.ones(8)]], ['ram']),
      memory([[none, page, mpqemu.le(1, 8)]], ['ram']),
      memory([[none, page, none], [none, page, none]], ['ram', 'ram']),
      memory([[none, page, none]], ['irq']),
      memory([[none, page, none]], ['pipe']),
      memory([[none, page, none]], ['closed']),
      memory([[mpqemu.le(4096 * i, 8), page, none] for i in std.range(0, 7)], many('ram', 8)),
      irqfd(['irq', 'irq']),
      irqfd(['ram', 'ram']),
      irqfd(['pipe', 'closed']),
    ])),
  ]
)
