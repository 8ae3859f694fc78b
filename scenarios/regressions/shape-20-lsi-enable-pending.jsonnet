local lsi = import '../lib/lsi.libsonnet';

local sien0 = 64;
local rst = 8;  // SCNTL1.RST
local set(offset, value) = { 'bar.write': { bar: 1, offset: offset, value: value, size: 1 } };
local status(value) = { 'config.read': { offset: 6, size: 2, expect: { value: value, mask: 8 } } };
local command(bits) = { 'config.write': { offset: 4, value: bits, size: 2 } };
local intx(count) = { 'irq.expect': { index: 'intx', count: count } };

lsi.scenario(
  'regressions.shape-20-lsi-enable-pending',
  'A condition that came while it was not enabled interrupts when it is, and while it is enabled ' +
  'the interrupt follows the disable bit of Command. Mutants lsi-sien-not-evaluated, ' +
  'lsi-stacked-lost, pci-intx-disable-ignored.',
  more={ irqs_vary: 'how often INTx is signalled again while it is asserted' },
  steps=[
    lsi.attention(),
    set(sien0, 0),
    { 'irq.expect': { index: 'intx', count: 0, at_least: true } },
    set(lsi.reg.scntl1, rst),
    set(lsi.reg.scntl1, 0),
    { 'bar.read': { bar: 1, offset: lsi.reg.istat0, size: 1, expect: { value: 2, mask: 2 } }, note: 'SIP' },
    status(0) { note: 'no interrupt' },
    intx(0),
    command(1024 + 7) { note: 'Interrupt Disable' },
    set(sien0, lsi.sist0.reset),
    status(8) { note: 'Interrupt Status' },
    intx(0),
    command(7),
    intx(1),
    { 'bar.read': { bar: 1, offset: lsi.reg.sist0, size: 1, expect: { value: lsi.sist0.reset } } },
    status(0),
    // One that comes while another is served is told after it.
    set(lsi.reg.scntl1, rst),
    set(lsi.reg.scntl1, 0),
    set(lsi.reg.istat0, 128) { note: 'ABRT' },
    set(lsi.reg.istat0, 0),
    { 'bar.read': { bar: 1, offset: lsi.reg.istat0, size: 1, expect: { value: 2, mask: 3 } }, note: 'SIP alone' },
    { 'bar.read': { bar: 1, offset: lsi.reg.sist0, size: 1, expect: { value: lsi.sist0.reset } } },
    { 'bar.read': { bar: 1, offset: lsi.reg.istat0, size: 1, expect: { value: 1, mask: 3 } }, note: 'then DIP' },
    { 'bar.read': { bar: 1, offset: lsi.reg.dstat, size: 1, expect: { value: 16, mask: 16 } } },
    { 'lsi.enable': {} },
    lsi.attention(),
    lsi.ready(),
    { 'process.expect_alive': {} },
  ],
)
