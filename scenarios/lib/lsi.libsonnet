// A disk-proc with an LSI53C895A and disks on its bus; scripts for it, dword by dword.
local scsi = import 'scsi.libsonnet';

{
  local lsi = self,

  memory(size='64M'):: { driver: 'memory', size: size },
  generated(seed, size='64M'):: { driver: 'generated', size: size, seed: std.toString(seed) },

  local join(options) =
    std.join(',', ['%s=%s' % [key, options[key]] for key in std.objectFields(options)]),
  local devices(disks, product) = std.flattenArrays([
    [
      '-blockdev',
      join(disks[i] { 'node-name': 'd%d' % i }),
      '-device',
      'scsi-hd,drive=d%d,bus=lsi0.0,scsi-id=%d' % [i, i] + product,
    ]
    for i in std.range(0, std.length(disks) - 1)
  ]),

  // The command line but for the server: chip lsi0, with `disks` (media) as targets from 0 on.
  arguments(disks):: ['-device', 'lsi53c895a,id=lsi0'] + devices(disks, ',product=DISK'),

  // By vfio-user, in both modes.
  scenario(name, description, steps, disks=[lsi.memory()], more={}):: {
    name: name,
    description: description,
    processes: [{
      id: 'disk',
      exec: 'disk-proc',
      args: lsi.arguments(disks) + [
        '-object',
        'x-vfio-user-server,id=server,type=unix,path=lsi0.sock,device=lsi0',
      ],
    }],
    devices: [{ id: 'lsi0', process: 'disk', socket: 'lsi0.sock' }],
    steps: [{ 'lsi.enable': {} }] + steps,
  } + more,

  // By QEMU's multi-process protocol.
  mpqemu(name, description, steps, disks=[lsi.memory()], more={}):: {
    name: name,
    description: description,
    processes: [{
      id: 'disk',
      exec: 'disk-proc',
      args: lsi.arguments(disks) + ['-object', 'x-remote-object,id=server,devid=lsi0,fd=%FD%'],
    }],
    devices: [{ id: 'lsi0', process: 'disk', protocol: 'mpqemu' }],
    steps: [{ 'lsi.enable': {} }] + steps,
  } + more,

  // QEMU's own chip, with disks of zeroes of `sizes`.
  qemu(name, description, steps, sizes=[67108864], more={}):: {
    name: name,
    description: description,
    processes: [{
      id: 'disk',
      qemu: {
        devid: 'lsi0',
        args: ['-device', 'lsi53c895a,id=lsi0'] + devices([
          { driver: 'null-co', size: size, 'read-zeroes': 'on' }
          for size in sizes
        ], ''),
      },
    }],
    devices: [{ id: 'lsi0', process: 'disk', protocol: 'mpqemu' }],
    steps: [{ 'lsi.enable': {} }] + steps,
  } + more,

  // A unit says first that it was reset, whatever it is asked.
  attention(target=0, asc=scsi.asc.reset):: {
    'lsi.command': {
      target: target,
      cdb: scsi.test_unit_ready,
      status: 'CHECK CONDITION',
      expect: { sense_key: scsi.keys.unit_attention, asc: asc },
    },
    note: 'UNIT ATTENTION of target %d' % target,
  },
  ready(target=0):: { 'lsi.command': { target: target, cdb: scsi.test_unit_ready } },

  // A command that must be refused.
  refused(cdb, asc, more={}):: {
    'lsi.command': {
      cdb: cdb,
      status: 'CHECK CONDITION',
      expect: { sense_key: scsi.keys.illegal_request, asc: asc },
    } + more,
  },

  // The general purpose timer, with its interrupt; each code doubles the time, 1 is 125 us. It halts
  // SCRIPTS: lsi.enable starts the driver's again.
  start_timer(code):: [
    { 'bar.write': { bar: 1, offset: lsi.reg.sien1, size: 1, value: lsi.sist1.general } },
    { 'irq.expect': { index: 'intx', count: 0, at_least: true }, note: 'forgets those before' },
    { 'bar.write': { bar: 1, offset: lsi.reg.stime1, size: 1, value: code } },
  ],
  timer_fires:: [
    { 'irq.expect': { index: 'intx' }, note: 'GEN' },
    { 'bar.read': { bar: 1, offset: lsi.reg.sist1, size: 1, expect: { value: lsi.sist1.general } } },
    { 'irq.unmask': { index: 'intx' } },
  ],

  // Where BARs 1 and 2 come to lie, and where scenarios put their scripts and data.
  registers:: 3758096384,  // 0xe0000000
  ram:: 3758104576,  // 0xe0002000
  script:: 2097152,
  data:: 2162688,
  reserve:: { 'memory.reserve': { iova: lsi.script, size: 131072 } },
  // Registers.
  reg:: {
    scntl1: 1,
    scntl2: 2,
    dstat: 12,
    dsa: 16,
    istat0: 20,
    istat1: 21,
    dsp: 44,
    dsps: 48,
    scratcha: 52,
    sien1: 65,
    sist0: 66,
    sist1: 67,
    stime0: 72,
    stime1: 73,
    scratchb: 92,
    csbc: 220,
  },
  dstat:: { sir: 4, dfe: 128, iid: 1 },
  sist0:: { mismatch: 128, reset: 2, disconnect: 4 },
  sist1:: { general: 2, handshake: 1 },
  istat0:: { reset: 64, connected: 8 },

  // SCRIPTS, manual chapter 5: each function gives the dwords of an instruction.
  phase:: { data_out: 0, data_in: 1, command: 2, status: 3, message_out: 6, message_in: 7 },
  op:: { load: 0, shl: 1, or: 2, xor: 3, and: 4, shr: 5, add: 6, addc: 7 },
  ack:: 64,
  atn:: 8,
  always:: 524288,
  when(phase):: phase * 16777216 + 65536 + 131072,
  local minus(offset) = offset & 16777215,

  move(phase, count, address):: [134217728 + phase * 16777216 + count, address],
  move_indirect(phase, count, pointer):: [671088640 + phase * 16777216 + count, pointer],
  move_table(phase, offset):: [402653184 + phase * 16777216, minus(offset)],
  select(target, alternate=0, atn=true)::
    [1073741824 + (if atn then 16777216 else 0) + target * 65536, alternate],
  select_table(offset, alternate=0):: [1124073472 + minus(offset), alternate],
  wait_disconnect:: [1207959552, 0],
  wait_reselect(alternate=0):: [1342177280, alternate],
  set(flags):: [1476395008 + flags, 0],
  clear(flags):: [1610612736 + flags, 0],
  modify(reg, op, data):: [2013265920 + op * 16777216 + (reg & 127) * 65536 + (reg & 128) + data * 256, 0],
  jump(address, condition=lsi.always):: [2147483648 + condition, address],
  int(code, condition=lsi.always):: [2550136832 + condition, code],
  intfly:: [2551709696, 0],
  move_memory(count, source, target):: [3221225472 + count, source, target],
  load(reg, count, address):: [3774873600 + reg * 65536 + count, address],
  store(reg, count, address):: [3758096384 + reg * 65536 + count, address],
  script_of(instructions):: std.flattenArrays(instructions),

  // A script, run where `address` says until it halts. `more`: expect, dsa, ...
  run(instructions, more={}):: {
    'lsi.run_script': { address: lsi.script, words: lsi.script_of(instructions) } + more,
  },
  // It ends with INT `code`.
  ends(instructions, code, more={}):: lsi.run(instructions, more {
    expect: { dsps: code, dstat: { value: lsi.dstat.sir, mask: lsi.dstat.sir }, sist0: 0, sist1: 0 },
  }),

  // Selects `target`, identifies and sends `cdb`, from `lsi.data` on: message bytes there, the CDB 64
  // bytes behind.
  connect(size, messages=1, target=0):: [
    lsi.select(target),
    lsi.move(lsi.phase.message_out, messages, lsi.data),
    lsi.move(lsi.phase.command, size, lsi.data + 64),
  ],
  put(messages, cdb):: [
    { 'memory.write': { iova: lsi.data, data: scsi.bytes(messages) } },
    { 'memory.write': { iova: lsi.data + 64, data: cdb } },
  ],
  // Status and COMMAND COMPLETE to lsi.data + 128, bus free.
  finish:: [
    lsi.move(lsi.phase.status, 1, lsi.data + 128),
    lsi.move(lsi.phase.message_in, 1, lsi.data + 129),
    lsi.modify(lsi.reg.scntl2, lsi.op.and, 127),
    lsi.clear(lsi.ack + lsi.atn),
    lsi.wait_disconnect,
  ],
}
