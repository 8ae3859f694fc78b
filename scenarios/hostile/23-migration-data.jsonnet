local lib = import 'lib.libsonnet';
local disk = import '../lib/disk.libsonnet';

local states = lib.states { 'error': 0 };
local set(state, more={}) = {
  'feature.set': { device: 'attacked', feature: 'state', data: lib.u32([states[state], 0]) } + more,
};
local is(state) = {
  'feature.get': { device: 'attacked', feature: 'state', expect: { value: states[state] } },
};
local refused = { refused: 'EINVAL' };
local reset = { reset: { device: 'attacked' } };
local data(more={}, what='$saved') = { 'mig.write': { device: 'attacked', data: what } + more };

// What is written in RESUMING, and how it ends.
local taken(writes) = [set('resuming')] + writes + [set('running'), is('running')];
local broken(writes, note) =
  [set('resuming')] + lib.noted(writes, note) + [set('running', refused), is('error'), reset];

// devices/core/state_format.md: magic, version, reserved; then the first section's name size, name.
local first_section = 12;

// A bit anywhere may be refused or taken: all that matters is that nothing breaks. NO_REPLY leaves
// open which, and RESET leads back.
local flipped(bit) =
  [{ connect: { device: 'attacked', map: false } }, set('resuming'), data({ flip: bit })] +
  lib.gone +
  lib.client(
    [lib.send('DEVICE_FEATURE',
              lib.feature(lib.features.state + lib.set, lib.u32([lib.states.running, 0])),
              { no_reply: true })] +
    lib.call('DEVICE_RESET') + lib.in_step
  );

lib.scenario(
  '23-migration-data',
  'Saved state that is cut, repeated, has a bit flipped, is of another version or of another ' +
  'device is refused: the device is in ERROR until its reset. MigrationTest of ' +
  'devices/server/migration_test.cc cuts and flips at many more places.',
  setup=[{ connect: { device: 'other', map: false } }] +
        [
          {
            'feature.set': {
              device: 'other',
              feature: 'state',
              data: lib.u32([lib.states.stop_copy, 0]),
            },
          },
          { 'mig.read': { device: 'other', capture: { data: 'others' } } },
          { disconnect: { device: 'other' } },
          { connect: { device: 'attacked', map: false } },
          reset,
          set('stop_copy'),
          { 'mig.read': { device: 'attacked', capture: { data: 'saved' } } },
          { 'mig.read': { device: 'attacked', expect: { size: 0 } }, note: 'that was all' },
          reset,
          { disconnect: { device: 'attacked' } },
        ],
  attack=
  [{ connect: { device: 'attacked', map: false } }] +
  lib.noted(taken([data()]), 'what all the rest is about') +
  taken([data({ size: 7 }), data({ skip: 7, size: 100 }), data({ skip: 107 })]) +
  broken([data({ size: 1 })], 'cut') +
  lib.flat([
    broken([data({ size: size })], 'cut at %d' % size)
    for size in [8, 11, 13, 20, 100, 200]
  ]) +
  [set('resuming'), lib.note(set('running', refused), 'nothing at all'), is('error'), reset] +
  broken([data(), data()], 'repeated') +
  broken([data(), data({ size: 1 })], 'a byte more') +
  broken([data({ skip: 1 })], 'begins late') +
  broken([data({ skip: 7 }), data({ size: 7 })], 'in the wrong order') +
  lib.flat([broken([data({ flip: bit })], 'bit %d' % bit) for bit in [0, 63, 64, 79]]) +
  broken([data({ flip: 8 * first_section })], 'another size of the first name') +
  broken([data({ flip: 8 * first_section + 8 })], 'another name') +
  broken([data(what='$others')], 'of a controller with other properties') +
  broken([data(what=[{ zeroes: 1048576 - 8 }])], 'zeroes') +
  lib.noted([data(refused)], 'not in RUNNING') +
  [set('stop_copy'), data(refused), set('stop'), data(refused), set('running')] +
  [{ 'mig.read': { device: 'attacked' } + refused }] +
  taken([data()]) + lib.gone +
  lib.flat([flipped(977 * i % 1600) for i in std.range(1, 10)]),
  rounds=5,
  slack='64M',  // Messages of a megabyte each.
) {
  processes+: [
    disk.process({ other: disk.memory('32M') }, { msix_qsize: 9, max_ioqpairs: 4 }, 'elsewhere'),
  ],
  devices+: [disk.device('other', 'elsewhere') { connect: false }],
}
