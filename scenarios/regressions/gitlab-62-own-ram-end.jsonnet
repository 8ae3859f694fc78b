local lsi = import '../lib/lsi.libsonnet';

local end = lsi.ram + 8192;
local fault = { value: 32, mask: 32 };  // DSTAT.BF
// DMA that leaves SCRIPTS RAM on its way.
local faults(instruction) = lsi.run([instruction, lsi.int(1)], { expect: { dstat: fault, sist0: 0 } });

lsi.scenario(
  'regressions.gitlab-62-own-ram-end',
  "The chip's own DMA across the ends of its SCRIPTS RAM is a bus fault, and the last instruction " +
  'of the RAM can be run. Mutants pci-self-access-past-bar, lsi-fetch-past-ram.',
  steps=[
    lsi.attention(),
    lsi.reserve,
    { 'memory.write': { iova: lsi.data, fill: 17, size: 4096 } },
    faults(lsi.move_memory(8, lsi.data, end - 4)),
    faults(lsi.move_memory(8, end - 4, lsi.data)),
    faults(lsi.move_memory(64, end - 1, lsi.data)),
    faults(lsi.load(lsi.reg.scratcha, 4, end - 2)),
    faults(lsi.store(lsi.reg.scratcha, 4, end - 3)),
    { 'memory.check': { iova: lsi.data, fill: 17, size: 4096 } },
    // The last eight bytes are an instruction; behind them there is nothing.
    { 'bar.write': { bar: 2, offset: 8184, data: [{ u32: word } for word in lsi.int(7)] } },
    lsi.ends([lsi.jump(end - 8), lsi.int(1)], 7),
    lsi.run([lsi.jump(end - 4), lsi.int(1)], { expect: { dstat: fault } }),
    lsi.run([lsi.jump(end), lsi.int(1)], { expect: { dstat: fault } }),
    { 'lsi.enable': {} },
    lsi.ready(),
    { 'process.expect_alive': {} },
  ],
)
