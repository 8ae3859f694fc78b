local lsi = import '../lib/lsi.libsonnet';

lsi.scenario(
  'lsi.table-64k',
  '64 KiB by table-indirect moves, in one segment and in many, both ways.',
  disks=[lsi.memory(), lsi.generated(seed=9)],
  steps=[lsi.attention(0), lsi.attention(1)] + std.flattenArrays([
    [
      { 'lsi.read': { target: 1, block: 128 * n, blocks: 128, generated: 9, segments: n } },
      { 'lsi.write': { block: 128 * n, blocks: 128, seed: n, segments: n } },
      { 'lsi.read': { block: 128 * n, blocks: 128, seed: n, segments: 23 - n } },
    ]
    for n in [1, 2, 7, 16, 22]
  ]) + [
    { 'lsi.read': { block: 128, blocks: 128, seed: 1, disconnect: false }, note: 'the bus is held' },
    { 'lsi.read': { block: 128, blocks: 128, seed: 1, tagged: false } },
    { 'lsi.write': { block: 4096, blocks: 4096, seed: 5, segments: 3 }, note: '2 MiB' },
    { 'lsi.read': { block: 4096, blocks: 4096, seed: 5, segments: 5 } },
  ],
)
