local disk = import '../lib/disk.libsonnet';

disk.scenario(
  'nvme.flush',
  'Flush, on one namespace and on all, with the write cache on and off.',
  steps=[
    { 'nvme.enable': {} },
    { 'nvme.create_queues': {} },
    { 'nvme.write': { block: 0, blocks: 8, seed: 1 } },
    { 'nvme.flush': {} },
    { 'nvme.execute': { opcode: 0, nsid: '0xffffffff' }, note: 'all namespaces' },
    { 'nvme.execute': { opcode: 0, nsid: 2, status: 'Invalid Namespace or Format' } },
    { 'nvme.get_feature': { id: 6, expect: { dw0: 1 } }, note: 'Volatile Write Cache' },
    { 'nvme.set_feature': { id: 6, value: 0 } },
    { 'nvme.write': { block: 8, blocks: 8, seed: 1 } },
    { 'nvme.flush': {} },
    { 'nvme.read': { block: 0, blocks: 16, seed: 1 } },
  ],
)
