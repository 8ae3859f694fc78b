// What QEMU 7.2's own remote does with messages that its proxy never sends; docs/mpqemu.md has it as
// a report. disk-proc does better: mpqemu/hostile-*.
local m = import '../lib/mpqemu.libsonnet';

local send(message) = [{ 'frame.send': message }];
local ends(status, signalled, line, steps) = steps + [
  { 'process.wait': { expect: { status: status, signalled: signalled } } },
  { 'log.expect': { pattern: line } },
  { disconnect: {} },
];
local aborts(line, steps) = ends(6, 1, line, steps);
local exits(line, steps) = ends(0, 0, line, steps);
local ram = [{ 'fd.make': { name: 'ram', kind: 'memfd', size: 65536 } }];

m.hostile(
  'qemu.remote-ends',
  "QEMU's remote: a configuration read of more than 4 bytes overflows a buffer, a negative size " +
  'fails an assertion, and an address where nothing is ends the process.',
  m.qemu('lsi0', ['-device', 'lsi53c895a,id=lsi0']),
  [
    aborts('buffer overflow detected', send({ mpqemu: 'PCI_CFGREAD', payload: m.config(0, m.le(size, 4)) }))
    for size in [5, 8, 256]
  ] + [
    aborts('Assertion .* failed', send({ mpqemu: command, payload: m.config(0, m.ones(4)) }))
    for command in ['PCI_CFGREAD', 'PCI_CFGWRITE']
  ] + [
    exits('Bad address for PCI config read', send({ mpqemu: 'PCI_CFGREAD', payload: m.config(253, m.le(1, 4)) })),
    exits('Bad address c0000000 for mem read', send({ mpqemu: 'BAR_READ', payload: m.bar(m.le(3221225472, 8), m.le(4, 4)) })),
    exits(
      'invalid message',
      ram + send({
        mpqemu: 'SYNC_SYSMEM',
        payload: std.join('', [m.le(4096 * i, 8) for i in std.range(0, 7)]) + std.repeat(m.le(4096, 8), 8) + m.le(0, 64),
        fds: ['ram' for i in std.range(0, 7)],
      })
    ),
  ]
)
