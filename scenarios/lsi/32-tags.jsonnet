local lsi = import '../lib/lsi.libsonnet';
local scsi = import '../lib/scsi.libsonnet';

local tags = std.range(0, 31);
// Threads read it, so no command is done at once.
local file = { driver: 'file', filename: 'disk.img', aio: 'threads' };

local together = [
  { 'lsi.submit': {
    cdb: scsi.read10(64 * t, 16),
    data_in: 8192,
    segments: 1 + t % 5,
    capture: { id: 'tag%d' % t },
  } }
  for t in tags
] + [
  { 'lsi.wait': {
    id: '$tag%d' % t,
    size: 8,
    expect: { residual: 0, data: '%02x%02x%02x%02x%02x%02x%02x%02x' % std.repeat([t + 1], 8) },
  } }
  for t in [31 - t for t in tags]
];

lsi.scenario(
  'lsi.32-tags',
  'Thirty-two tagged reads are in flight at once: the target disconnects and reselects, and each comes back to its own data.',
  disks=[file, lsi.generated(seed=4)],
  more={ irqs_vary: 'completions of several commands may share an interrupt' },
  steps=[lsi.attention(0), lsi.attention(1)] + [
    { 'lsi.write': { block: 64 * t, blocks: 16, fill: t + 1, segments: 22 - t % 7 } }
    for t in tags
  ] + [
    { repeat: { times: 4, steps: together } },
    { 'bar.read': { bar: 1, offset: lsi.reg.scratchb, size: 2, expect: { value: { min: 16 } } }, note: 'reselections, which the script counts' },
    { 'lsi.read': { target: 1, block: 7, blocks: 64, generated: 4 } },
    { 'process.expect_alive': { process: 'disk' } },
  ],
) + {
  processes: [
    { id: 'image', exec: 'truncate', args: ['-s', '16M', 'disk.img'] },
    super.processes[0] { start: false },
  ],
  devices: [super.devices[0] { connect: false }],
  steps: [
    { 'process.wait': { process: 'image' } },
    { 'process.start': { process: 'disk' } },
    { connect: {} },
  ] + super.steps,
}
