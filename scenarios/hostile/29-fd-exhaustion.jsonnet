local lib = import 'lib.libsonnet';
local disk = import '../lib/disk.libsonnet';

local limit = 128;

// A descriptor more, of a vector that none has yet: their number counts up.
local one_more = [
  { 'process.check_growth': { fds: limit, capture: { fds: 'open' } } },
  lib.send('DEVICE_SET_IRQS',
           lib.u32([20, lib.trigger_eventfd, lib.irqs.msix, '$open', 1]),
           { fds: ['event'] }),
  lib.expect('DEVICE_SET_IRQS'),
];
local hoard =
  [lib.connect()] + lib.negotiate() +
  [{ repeat: { steps: one_more, until: { of: '$open', value: limit - 1 } }, note: 'to the last' }] +
  lib.noted(lib.in_step, 'none is needed for that');

// Descriptors that the process inherited above its limit are no use to it, but were counted. So
// there may be room for a few more, never for so many.
local overflow = [
  lib.note(lib.send('DEVICE_SET_IRQS',
                    lib.set_irqs(lib.trigger_eventfd, lib.irqs.msix, 0, 16),
                    { fds: ['event' for i in std.range(1, 16)] }),
           'fds that do not come through'),
  lib.closed(),
  lib.disconnect(),
];
local late = ['late0', 'late1', 'late2'];

lib.scenario(
  '29-fd-exhaustion',
  'A client that makes the process run out of descriptors loses its channel and all that it ' +
  'took, and who came meanwhile is served.',
  completion='poll',  // Drivers that arm no vectors leave the descriptors to the client.
  setup=[{ 'fd.make': { name: 'event', kind: 'eventfd' } }],
  attack=hoard + lib.witness(4) + overflow,
  rounds=3,
  once=
  hoard +
  lib.flat([
    [
      lib.note(lib.connect(device), 'waits in the backlog'),
      lib.send('VERSION', lib.version_payload(), device=device),
    ]
    for device in late
  ]) +
  [{ 'log.expect': { pattern: 'cannot accept a client' } }] + lib.witness(5) + lib.in_step +
  lib.noted(overflow, 'makes room') +
  lib.flat([
    [lib.expect('VERSION', device=device), lib.disconnect(device)]
    for device in late
  ]),
) {
  processes: [
    disk.process(
      { attacked: disk.memory(), witness: disk.generated(7) } +
      { [id]: disk.memory() for id in late },
      { msix_qsize: 256 }
    ) { max_fds: limit },
  ],
  devices+: [disk.device(id) { connect: false } for id in late],
}
