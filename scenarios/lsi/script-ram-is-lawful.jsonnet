local lsi = import '../lib/lsi.libsonnet';
local scsi = import '../lib/scsi.libsonnet';

// The counter-scenario of re-entrancy guards: the chip reaches its own SCRIPTS RAM and registers by
// DMA, as drivers have it do.
lsi.scenario(
  'lsi.script-ram-is-lawful',
  'Scripts in SCRIPTS RAM, tables and data there, a script that writes another one, and registers reached through their BAR.',
  disks=[lsi.generated(seed=2)],
  steps=[
    lsi.attention(),
    lsi.reserve,
    { 'config.read': { offset: 20, size: 4, expect: { value: lsi.registers } } },
    { 'config.read': { offset: 24, size: 4, expect: { value: lsi.ram } } },
    { 'memory.write': { iova: lsi.data, data: [{ u32: 305419896 }] } },
    // Memory to RAM, RAM to RAM, and back.
    lsi.ends([
      lsi.move_memory(4, lsi.data, lsi.ram + 4096),
      lsi.move_memory(4, lsi.ram + 4096, lsi.ram + 8188),
      lsi.move_memory(4, lsi.ram + 8188, lsi.data + 4),
      lsi.load(lsi.reg.scratcha, 4, lsi.ram + 4096),
      lsi.store(lsi.reg.scratcha, 4, lsi.ram + 5000),
      lsi.move_memory(4, lsi.ram + 5000, lsi.data + 8),
      // Registers, by their addresses.
      lsi.move_memory(4, lsi.data, lsi.registers + lsi.reg.scratchb),
      lsi.move_memory(4, lsi.registers + lsi.reg.scratchb, lsi.data + 12),
      lsi.int(3),
    ], 3, { address: lsi.ram }),
    { 'memory.check': { iova: lsi.data, data: [{ u32: 305419896 }, { u32: 305419896 }, { u32: 305419896 }, { u32: 305419896 }] } },
    // A script that another one put there.
    { 'memory.write': { iova: lsi.data, data: [{ u32: word } for word in lsi.int(44)] } },
    lsi.ends([lsi.move_memory(8, lsi.data, lsi.ram + 4096), lsi.jump(lsi.ram + 4096)], 44, { address: lsi.ram }),
    // Data of a target into RAM, and out of it.
  ] + lsi.put([scsi.identify()], scsi.read10(5, 1)) + [
    lsi.ends(lsi.connect(10) + [lsi.move(lsi.phase.data_in, 512, lsi.ram + 4096)] + lsi.finish + [
      lsi.move_memory(512, lsi.ram + 4096, lsi.data + 4096),
      lsi.int(5),
    ], 5, { address: lsi.ram }),
    { 'memory.check': { iova: lsi.data + 128, data: '00 00' }, note: 'GOOD, COMMAND COMPLETE' },
    { 'memory.digest': { iova: lsi.data + 4096, size: 512, capture: 'by_ram' } },
    lsi.ends(lsi.connect(10) + [lsi.move(lsi.phase.data_in, 512, lsi.data + 4096)] + lsi.finish + [lsi.int(6)], 6),
    { 'memory.digest': { iova: lsi.data + 4096, size: 512, expect: { digest: '$by_ram' } } },
    { 'lsi.enable': {} },
    { 'lsi.read': { block: 5, blocks: 8, generated: 2 } },
    { 'process.expect_alive': {} },
  ],
)
