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

  // A number's bytes on the wire, as hexadecimal digits. Below 2^53.
  local digits = '0123456789abcdef',
  le(value, width)::
    if width == 0 then ''
    else digits[(value >> 4) & 15] + digits[value & 15] + self.le(value >> 8, width - 1),
  // -1, or the most there is.
  ones(width):: std.repeat('ff', width),

  // Bare connections, each to a process of its own: the steps of `attacks` go over them. A process
  // that is told nonsense hangs up and says so: `nonsense(steps)`; another one lives on, and tells
  // the device's vendor id: `harmless(steps)`.
  hostile(name, description, process, attacks):: {
    name: name,
    description: description,
    processes: [process { start: false }],
    devices: [{ id: 'lsi0', protocol: 'mpqemu', process: process.id, connect: false }],
    steps: std.flattenArrays([[{ 'process.start': {} }, { connect: { raw: true } }] + attack for attack in attacks]),
  },
  nonsense(steps):: steps + [
    { 'channel.expect_closed': {} },
    { disconnect: {} },
    { 'process.wait': { status: 1 } },
  ],
  harmless(steps):: steps + [
    { 'frame.send': { mpqemu: 'PCI_CFGREAD', payload: $.le(0, 4) + $.le(0, 4) + $.le(2, 4) } },
    { 'frame.expect': { mpqemu: 'RET', payload: '00100000' } },
    { disconnect: {} },
    { 'process.wait': { status: 0 } },
  ],
  // A request and its reply, whose first bytes are `payload`.
  ask(command, request, reply):: [
    { 'frame.send': { mpqemu: command, payload: request } },
    { 'frame.expect': { mpqemu: 'RET', payload: reply } },
  ],
  config(address, size, value='00000000'):: $.le(address, 4) + value + size,
  bar(address, size):: address + $.le(0, 8) + size + $.le(1, 4),

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
