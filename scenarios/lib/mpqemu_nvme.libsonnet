// What an NVMe controller behind mpqemu must do, whoever's it is.
{
  args(medium):: ['-blockdev', medium, '-device', 'nvme,id=nvme0,drive=d0,serial=S1'],

  local work(seed) = [
    { 'nvme.enable': { completion: 'intx' } },
    { 'nvme.create_queues': { count: 1, entries: 16 } },
    { 'nvme.write': { block: 8, blocks: 64, seed: seed } },
    { 'nvme.read': { block: 8, blocks: 64, seed: seed } },
    { 'nvme.flush': {} },
    { 'nvme.read': { block: 70, blocks: 2 } },
  ],

  steps:: [
    { 'config.read': { offset: 0, size: 2, capture: 'vendor' } },
    { 'config.read': { offset: 255, size: 1 }, note: 'a read that ends a remote of QEMU, if it gets there' },
    { 'bar.read': { bar: 0, offset: '0x1c', size: 4, expect: { value: 0, mask: 1 } }, note: 'CSTS.RDY' },
  ] + work(1) + [
    { 'nvme.read': { block: 4294967295, blocks: 1, status: 'LBA Out of Range' } },
    { reset: {}, note: 'DEVICE_RESET' },
    { 'config.read': { offset: 0, size: 2, expect: { value: '$vendor' } } },
  ] + work(2),
}
