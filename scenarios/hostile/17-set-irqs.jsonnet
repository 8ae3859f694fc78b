local lib = import 'lib.libsonnet';

local msix = lib.irqs.msix;
local set(flags, index, start, count, errno=0, data=[], fds=[], argsz=20, note=null) = lib.call(
  'DEVICE_SET_IRQS',
  lib.set_irqs(flags, index, start, count, data, argsz),
  errno,
  { fds: fds },
  note=note
);
local arm(index, start, fds, errno=0, note=null) =
  set(lib.trigger_eventfd, index, start, std.length(fds), errno, fds=fds, note=note);
local trigger(index, start, count, errno=0, note=null) =
  set(lib.trigger_none, index, start, count, errno, note=note);
local vectors = 65;
local most = '0xffffffff';
local bools(count) = [{ u8: 1 } for i in std.range(1, count)];

lib.scenario(
  '17-set-irqs',
  'DEVICE_SET_IRQS with ranges that wrap, data of another kind, too few bytes, and eventfds ' +
  'that are shared, full or closed.',
  setup=[
    { 'fd.make': { name: 'event', kind: 'eventfd' } },
    { 'fd.make': { name: 'other', kind: 'eventfd' } },
  ],
  attack=
  [{ 'fd.make': { name: 'short-lived', kind: 'eventfd' } }] +
  lib.client(
    lib.call('DEVICE_GET_IRQ_INFO',
             lib.u32([16, 0, msix, 0]),
             expect={ at: 12, width: 4, expect: { value: vectors } },
             note='what the ranges below count on') +
    trigger(msix, 1, most, 'EINVAL', note='start + count wraps') +
    trigger(msix, most, 1, 'EINVAL') +
    trigger(msix, most, most, 'EINVAL') +
    trigger(msix, '0x80000000', '0x80000000', 'EINVAL') +
    trigger(msix, vectors - 1, 2, 'EINVAL', note='one too many') +
    trigger(msix, vectors, 0, note='none, at the end: disables all') +
    trigger(msix, vectors + 1, 0, 'EINVAL') +
    trigger(5, 0, 0, 'EINVAL', note='no index of a PCI device') +
    trigger(most, 0, 1, 'EINVAL') +
    set(lib.trigger_bool, msix, 0, 4, 'EINVAL', bools(3), note='a bool too few') +
    set(lib.trigger_bool, msix, 0, 4, 'EINVAL', bools(5)) +
    set(lib.trigger_bool, msix, 0, most, 'EINVAL', bools(4)) +
    set(lib.trigger_bool, msix, 0, 4, 0, bools(4)) +
    set(lib.trigger_none, msix, 0, 4, 'EINVAL', bools(4), note='bools that were not announced') +
    set(lib.trigger_bool, msix, 0, 1, 'EINVAL', bools(1), ['event'], note='an fd, too') +
    set(lib.trigger_none, msix, 0, 1, 'EINVAL', fds=['event']) +
    set(lib.trigger_eventfd, msix, 0, 2, 'EINVAL', fds=['event']) +
    set(lib.trigger_eventfd, msix, 0, 1, 'EINVAL', argsz=19, fds=['event']) +
    lib.call('DEVICE_SET_IRQS', lib.u32([20, lib.trigger_none, msix, 0]), 'EINVAL') +
    lib.flat([
      set(flags, 0, 0, 1, 'EINVAL', note='no data kind and action, or several')
      for flags in [0, 1, 32, 1 + 2 + 32, 1 + 8 + 16, 1 + 8 + 32, 1 + 64, most]
    ]) +
    set(65536 + 32, msix, 0, 1, 'EINVAL', note='in-band, which was not negotiated') +
    set(lib.mask_none, msix, 0, 1, 'EINVAL', note='only INTx is masked here') +
    set(lib.unmask_none, msix, 0, 1, 'EINVAL') +
    set(4 + 8, lib.irqs.intx, 0, 1, 'EINVAL', fds=['event']) +
    lib.noted(arm(msix, 0, ['event', 'event', 'other', 'event']), 'one eventfd for several') +
    trigger(msix, 0, 4) +
    arm(msix, 1, ['other', 'event'], note='others in their place') +
    trigger(msix, 0, 4) +
    arm(msix, vectors - 1, ['event', 'other'], 'EINVAL') +
    arm(lib.irqs.intx, 0, ['event']) +
    set(lib.mask_none, lib.irqs.intx, 0, 1) +
    set(lib.mask_none, lib.irqs.intx, 0, 1, note='twice') +
    trigger(lib.irqs.intx, 0, 1, note='while it is masked') +
    set(lib.unmask_none, lib.irqs.intx, 0, 1) +
    set(lib.unmask_none, lib.irqs.intx, 0, 1) +
    set(lib.unmask_eventfd, lib.irqs.intx, 0, 1, fds=['event'], note='armed and resampled by one') +
    trigger(lib.irqs.intx, 0, 1) +
    arm(lib.irqs.err, 0, ['short-lived']) +
    [{ 'fd.close': { name: 'short-lived' }, note: 'the device still has its copy' }] +
    trigger(lib.irqs.err, 0, 1) + trigger(lib.irqs.err, 0, 1) +
    set(lib.trigger_none, msix, 0, 0) +
    trigger(msix, 0, 4, note='after they were all disabled') +
    lib.in_step
  ),
)
