local lib = import 'lib.libsonnet';

local megabyte = 1048576;
local big_read(id) =
  lib.send('REGION_READ', lib.access(lib.regions.config, 0, megabyte), { id: id });
// REGION_WRITE of Interrupt Line, with NO_REPLY, as hexadecimal digits.
local post(value) = '0200' + '0a00' + '21000000' + '10000000' + '00000000' +
                    '3c00000000000000' + '07000000' + '01000000' + '%02x' % value;
// More than the 4 MiB of answers that the server keeps before it stops reading.
local reads = std.range(1, 5);

lib.scenario(
  '27-flood',
  'A client that posts writes without end, or asks and never listens: it is not read from until ' +
  'it does, and the others are served. BackpressureTest of ' +
  'devices/server/vfio_user_session_test.cc has the limits to the byte.',
  attack=
  lib.client(
    [
      lib.note({ 'frame.send': {
        device: 'attacked',
        bytes: std.repeat(post(1) + post(2), 5000) + post(3),
      } }, 'ten thousand posted writes'),
    ] + lib.read(lib.regions.config, 60, 1, 3)
  ) +
  // It listens at last.
  lib.client(
    [big_read(id) for id in reads] + lib.witness(4) +
    [lib.expect('REGION_READ', 0, { id: id, size: 32 + megabyte }) for id in reads] +
    lib.in_step
  ) +
  // It never does: nothing more is taken from it.
  [lib.connect()] + lib.negotiate() + [big_read(id) for id in reads] + lib.witness(5) +
  [
    lib.note(lib.send('REGION_WRITE',
                      lib.access(lib.regions.rom, 0, megabyte, [{ zeroes: megabyte }]),
                      { no_reply: true, refused: 'ETIMEDOUT', timeout_ms: 50 }),
             'both sockets are full'),
  ] + lib.witness(6) +
  lib.gone,
  rounds=2,
  slack='128M',  // 5 MiB of answers wait, and grow to that.
)
