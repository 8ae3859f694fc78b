local lsi = import '../lib/lsi.libsonnet';

lsi.mpqemu(
  'mpqemu.lsi-tables',
  "Data by tables of one to 22 segments, by QEMU's multi-process protocol.",
  disks=[lsi.memory(), lsi.generated(seed=9)],
  steps=[lsi.attention(0), lsi.attention(1)] + std.flattenArrays([
    [
      { 'lsi.read': { target: 1, block: 128 * n, blocks: 128, generated: 9, segments: n } },
      { 'lsi.write': { block: 128 * n, blocks: 128, seed: n, segments: n } },
      { 'lsi.read': { block: 128 * n, blocks: 128, seed: n, segments: 23 - n } },
    ]
    for n in [1, 2, 7, 16, 22]
  ]),
)
