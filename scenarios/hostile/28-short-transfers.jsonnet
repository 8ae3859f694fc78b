local lib = import 'lib.libsonnet';

local stop = { 'process.kill': { signal: 'STOP' } };
local go_on = { 'process.kill': { signal: 'CONT' } };
local split(size) = { split: std.range(1, size - 1) };
local part(numbers) = { 'frame.send': { device: 'attacked', bytes: lib.bytes(numbers) } };
local map = lib.dma_map(0, 8192);

lib.scenario(
  '28-short-transfers',
  'Messages that arrive in single bytes, with their fds, a server that is stopped and goes on ' +
  'in each of its waits, and answers larger than the socket takes at once. Short transfers at ' +
  'every byte are RecordedSessionTest.TheRepliesAreTheSameHoweverTheBytesArrive of ' +
  'devices/server/vfio_user_session_test.cc and FrameStreamTest.SurvivesPartialSendsAndReceives ' +
  'of protocol/frame_stream_test.cc; EINTR of each call is not provoked anywhere.',
  setup=[
    { 'fd.make': { name: 'memory', kind: 'memfd', size: 8192 } },
    { 'fd.make': { name: 'event', kind: 'eventfd' } },
  ],
  attack=
  [lib.connect()] +
  lib.call('VERSION', lib.version_payload(), send=split(23)) +
  lib.call('DMA_MAP', map, send=split(48) + { fds: ['memory'] }) +
  lib.call('DMA_MAP', map, 'EEXIST') +
  lib.call('DEVICE_SET_IRQS',
           lib.set_irqs(lib.trigger_eventfd, lib.irqs.msix, 0, 2),
           send=split(36) + { fds: ['event', 'event'] }) +
  [
    lib.note(lib.send('REGION_READ', lib.access(lib.regions.config, 0, 2), { hold: true }),
             'the fd of the second comes glued to the first'),
    lib.send('DMA_MAP', lib.dma_map(65536, 8192), { fds: ['memory'] }),
    lib.vendor_id,
    lib.expect('DMA_MAP'),
  ] +
  // A wait that is interrupted between messages, within one, and with an answer half sent.
  [stop, go_on] + lib.in_step +
  [stop, lib.send('REGION_READ', lib.access(lib.regions.config, 0, 2)), go_on, lib.vendor_id] +
  [part(lib.read_message[:20]), stop, go_on, part(lib.read_message[20:]), lib.vendor_id] +
  [
    lib.send('REGION_READ', lib.access(lib.regions.config, 0, 1048576)),
    stop,
    go_on,
    lib.expect('REGION_READ', 0, { size: 1048576 + 32 }),
  ] + lib.in_step + lib.gone,
  slack='128M',  // Messages of a megabyte each.
)
