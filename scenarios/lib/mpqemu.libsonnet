// Devices over mpqemu: in disk-proc, or QEMU's own models in its remote.
{
  // A process with one device, `id`, which `args` (-blockdev, -device) make.
  farside(id, args):: {
    id: 'remote',
    exec: 'disk-proc',
    args: args + ['-object', 'x-remote-object,id=robj1,devid=%s,fd=%%FD%%' % id],
  },
  qemu(id, args):: { id: 'remote', qemu: { devid: id, args: args } },

  scenario(name, description, process, id, steps):: {
    name: name,
    description: description,
    processes: [process],
    devices: [{ id: id, protocol: 'mpqemu', process: process.id }],
    steps: steps,
  },

  // The same with a file disk.img of zeroes beside the process, which is started when that is
  // there: QEMU has no disk in memory.
  with_image(scenario, size='64M'):: scenario {
    local process = super.processes[0],
    processes: [
      { id: 'image', exec: 'truncate', args: ['-s', size, 'disk.img'] },
      process { start: false },
    ],
    devices: [device { connect: false } for device in super.devices],
    steps: [
      { 'process.wait': { process: 'image', status: 0 } },
      { 'process.start': { process: process.id } },
      { connect: {} },
    ] + super.steps,
  },
}
