local lsi = import '../lib/lsi.libsonnet';
local scsi = import '../lib/scsi.libsonnet';

// Messages that no target knows: MESSAGE REJECT to each, as far as there is room for 64.
local unknown(count) = [
  { 'memory.write': {
    iova: lsi.data,
    data: scsi.bytes([scsi.identify()] + std.repeat([16], count)),
  } },
  { 'memory.write': { iova: lsi.data + 4096, fill: 255, size: 128 } },
  lsi.ends([
    lsi.select(0),
    lsi.move(lsi.phase.message_out, 1 + count, lsi.data),
    lsi.move(lsi.phase.message_in, std.min(count, 64), lsi.data + 4096),
    lsi.int(3),
  ], 3),
  { 'memory.check': { iova: lsi.data + 4096, fill: 7, size: std.min(count, 64) } },
  { 'memory.check': { iova: lsi.data + 4096 + std.min(count, 64), fill: 255, size: 64 } },
  { 'lsi.enable': {} },
  lsi.ready(),
];

lsi.scenario(
  'regressions.shape-08-lsi-message-fifo',
  'More messages in one phase than the target has room to answer. Mutant lsi-message-in-past-full.',
  steps=[lsi.attention(), lsi.reserve] +
        std.flattenArrays([unknown(count) for count in [1, 63, 64, 65, 66, 100, 300]]) +
        [{ 'process.expect_alive': {} }],
)
