local lib = import 'lib.libsonnet';

// Says more than comes, and goes.
local cut(command, payload, size, fds=[]) =
  lib.client([lib.send(command, payload, { size: size, fds: fds })]);

lib.scenario(
  '02-cut-short',
  'A client that announces more than it sends, and goes: the bytes and fds it did send are ' +
  'dropped.',
  setup=[{ 'fd.make': { name: 'memory', kind: 'memfd', size: 4096 } }],
  attack=cut('REGION_READ', lib.access(lib.regions.config, 0, 2), 33) +
         cut('REGION_WRITE', lib.access(lib.regions.bar0, 20, 4), 36) +
         cut('DMA_MAP', lib.dma_map(0, 4096)[0:4], 48, ['memory']) +
         lib.noted(cut('DEVICE_SET_IRQS', [], 1052672, ['memory', 'memory']), 'the largest size') +
         [lib.connect(), lib.note(lib.send('VERSION', [], { size: 100 }), 'before VERSION')] +
         lib.witness_answers + lib.gone,
  rounds=10,
  once=[{ 'log.expect': { pattern: 'in the middle of a message' } }],
  slack='32M',  // The server makes room for what is announced.
)
