local lib = import 'lib.libsonnet';

lib.scenario(
  '25b-returns-at-once',
  'A client that goes with something unread behind it, and is back before the server has seen ' +
  'that: it is the only one there is, and is served.',
  attack=
  [lib.connect()] + lib.negotiate() + [
    {
      'process.kill': { signal: 'STOP' },
      note: 'so that the last words, the end and the next client are found at once',
    },
    lib.send('REGION_READ', lib.access(lib.regions.config, 0, 2)),
    lib.disconnect(),
    lib.connect(),
    { 'process.kill': { signal: 'CONT' } },
  ] + lib.negotiate() + lib.in_step + lib.gone,
)
