local lib = import 'lib.libsonnet';

local whole = lib.bytes(lib.read_message);
local cuts = std.range(1, std.length(whole) - 1);

local send(bytes) = { 'frame.send': { device: 'attacked', bytes: bytes } };

lib.scenario(
  '03-cut-header',
  'A message that is cut at each of its bytes: it goes on later and is answered, or it never ' +
  'does. RecordedSessionTest.AClientMayVanishAtAnyByte of ' +
  'devices/server/vfio_user_session_test.cc has the same for a session of every command.',
  attack=
  lib.client(lib.flat([
    [send(whole[:at])] + lib.witness_answers + [send(whole[at:]), lib.vendor_id]
    for at in cuts
  ])) +
  lib.client([
    lib.note({ 'frame.send': { device: 'attacked', bytes: whole, split: cuts } }, 'single bytes'),
    lib.vendor_id,
  ]) +
  lib.flat([lib.client([send(whole[:at])]) for at in cuts]),
  rounds=3,
)
