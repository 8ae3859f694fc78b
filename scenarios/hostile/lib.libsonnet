// What the hostile scenarios share: messages as bytes, and the frame around each attack.
local disk = import '../lib/disk.libsonnet';

{
  local lib = self,

  // std.flattenArrays takes quadratic time.
  flat(lists):: [step for list in lists for step in list],

  u16(value):: [{ u16: value }],
  u32(values):: [{ u32: value } for value in values],
  u64(values):: [{ u64: value } for value in values],

  // Payloads, by protocol/vfio_user.h.
  version_payload(json='{}', major=0, minor=0)::
    lib.u16(major) + lib.u16(minor) + [{ text: json }, { u8: 0 }],
  dma_map(iova, size, flags=3, offset=0, argsz=32)::
    lib.u32([argsz, flags]) + lib.u64([offset, iova, size]),
  dma_unmap(iova, size, flags=0, argsz=24):: lib.u32([argsz, flags]) + lib.u64([iova, size]),
  unmap_all:: lib.dma_unmap(0, 0, flags=2),
  access(region, offset, count, data=[]):: lib.u64([offset]) + lib.u32([region, count]) + data,
  set_irqs(flags, index, start, count, data=[], argsz=20)::
    lib.u32([argsz, flags, index, start, count]) + data,
  region_info(index, argsz=32):: lib.u32([argsz, 0, index, 0]) + lib.u64([0, 0]),
  feature(flags, data=[], argsz=4096):: lib.u32([argsz, flags]) + data,

  regions:: { bar0: 0, bar4: 4, rom: 6, config: 7 },
  irqs:: { intx: 0, msi: 1, msix: 2, err: 3 },
  // DEVICE_SET_IRQS.
  trigger_eventfd:: 4 + 32,
  trigger_none:: 1 + 32,
  trigger_bool:: 2 + 32,
  mask_none:: 1 + 8,
  unmask_none:: 1 + 16,
  unmask_eventfd:: 4 + 16,
  // DEVICE_FEATURE.
  get:: 65536,
  set:: 131072,
  probe:: 262144,
  features:: { migration: 1, state: 2, log_start: 6, log_stop: 7, log_report: 8 },
  states:: { stop: 1, running: 2, stop_copy: 3, resuming: 4 },

  // A command, with what it carries; `more` are fields of frame.send.
  send(command, payload=[], more={}, device='attacked'):: {
    'frame.send': { device: device, command: command, payload: payload } + more,
  },
  expect(command, errno=0, more={}, device='attacked'):: {
    'frame.expect': { device: device, command: command, errno: errno } + more,
  },
  note(step, text):: step { note: text },
  noted(steps, text):: [lib.note(steps[0], text)] + steps[1:],

  // A command and its answer.
  call(command, payload=[], errno=0, send={}, expect={}, note=null)::
    local steps = [lib.send(command, payload, send), lib.expect(command, errno, expect)];
    if note == null then steps else lib.noted(steps, note),

  connect(device='attacked'):: { connect: { device: device, raw: true } },
  disconnect(device='attacked'):: { disconnect: { device: device } },
  closed(device='attacked'):: { 'channel.expect_closed': { device: device } },
  negotiate(json='{}'):: lib.call('VERSION', lib.version_payload(json)),

  // A client that is negotiated, does `steps`, and goes.
  client(steps, json='{}')::
    [lib.connect()] + lib.negotiate(json) + steps + lib.gone,
  // The same for one that the server hangs up on.
  doomed(steps, negotiated=true)::
    [lib.connect()] + (if negotiated then lib.negotiate() else []) + steps +
    [lib.closed(), lib.disconnect()],
  // An answer elsewhere shows that the server, one thread, has been through its sockets meanwhile.
  witness_answers:: [
    { 'config.read': { device: 'witness', offset: 0, size: 2, expect: { value: '0xfa51' } } },
  ],
  // One client at a time: the next must not come before the server has seen this one go. That takes
  // a while where `farside -j` starts another process meanwhile: its fork has our sockets, too.
  gone:: [lib.disconnect(), { 'process.check_growth': {} }],

  // The message REGION_READ of the vendor id, byte by byte.
  local le(value, size) = [(value >> 8 * i) & 255 for i in std.range(0, size - 1)],
  read_message:: le(1, 2) + le(9, 2) + le(32, 4) + le(0, 8) + le(0, 8) + le(7, 4) + le(2, 4),
  bytes(numbers):: [{ u8: number } for number in numbers],

  // The stream is in step, and the server answers: with its vendor id.
  vendor_id:: lib.expect('REGION_READ', 0, { at: 16, width: 2, expect: { value: '0xfa51' } }),
  in_step:: [lib.send('REGION_READ', lib.access(lib.regions.config, 0, 2)), lib.vendor_id],

  // An NVMe controller that a raw client enables: its memory is behind messages, or is `fd`.
  sq:: 1048576,
  cq:: 1052672,
  buffer:: 1056768,
  write(region, offset, size, value, send={}):: lib.call(
    'REGION_WRITE', lib.access(region, offset, size, [{ ['u%d' % (8 * size)]: value }]), send=send
  ),
  read(region, offset, size, expect):: lib.call(
    'REGION_READ', lib.access(region, offset, size),
    expect={ at: 16, width: size, expect: { value: expect } }
  ),
  bar0(offset, size, value):: lib.write(lib.regions.bar0, offset, size, value),
  enable_nvme(fd=null)::
    lib.call('DMA_MAP',
             lib.dma_map(lib.sq, 1048576),
             send={ fds: if fd == null then [] else [fd] }) +
    lib.noted(lib.write(lib.regions.config, 4, 2, 6), 'memory space and bus master') +
    lib.bar0(20, 4, 0) +
    lib.noted(lib.bar0(36, 4, 15 * 65536 + 15), 'AQA: 16 entries each') +
    lib.bar0(40, 8, lib.sq) + lib.bar0(48, 8, lib.cq) +
    lib.noted(lib.bar0(20, 4, 4587521), 'CC.EN') +
    lib.csts(1),
  // The controller starts when tasks of before have ended.
  csts(value):: [{ repeat: {
    steps: lib.call('REGION_READ',
                    lib.access(lib.regions.bar0, 28, 4),
                    expect={ at: 16, width: 4, capture: 'csts' }),
    until: { of: '$csts', value: value },
    times: 200,
  } }],
  doorbell(tail, send={})::
    lib.write(lib.regions.bar0, 4096, 4, tail, send),
  // The device's own commands, and answers to them. `name` captures the id.
  dma_request(command, iova, count, name='dma'):: {
    'frame.expect': {
      device: 'attacked',
      command: command,
      request: true,
      payload: lib.u64([iova, count]),
      capture: { id: name },
    },
  },
  dma_reply(command, iova, count, data=[], name='dma', more={})::
    lib.send(command, lib.u64([iova, count]) + data, { reply: true, id: '$' + name } + more),
  // Submission queue entries. `get_features` needs no memory but its completion.
  get_features(cid):: [{ u8: 10 }, { u8: 0 }] + lib.u16(cid) + [{ zeroes: 36 }] +
                      lib.u32([7, 0, 0, 0, 0, 0]),
  identify(cid):: [{ u8: 6 }, { u8: 0 }] + lib.u16(cid) + [{ zeroes: 20 }] +
                  lib.u64([lib.buffer, 0]) + lib.u32([1, 0, 0, 0, 0, 0]),

  // The bystander's checked I/O, `round` after `round`.
  witness(round):: [
    { 'nvme.write': { device: 'witness', block: 16 * round, blocks: 16, seed: round } },
    { 'nvme.read': { device: 'witness', block: 16 * round, blocks: 16, seed: round } },
    { 'nvme.read': { device: 'witness', block: 5000 + round, blocks: 8, generated: 7 } },
  ],

  local drive(device, completion) = [
    { 'nvme.enable': { device: device, completion: completion } },
    { 'nvme.create_queues': { device: device } },
  ],

  // The attacked device serves an ordinary client, and its disk is as it was.
  next_client(completion):: [
    { connect: { device: 'attacked' } },
  ] + drive('attacked', completion) + [
    { 'nvme.read': { device: 'attacked', block: 0, blocks: 64, seed: 5 } },
    { 'nvme.write': { device: 'attacked', block: 64, blocks: 8, seed: 6 } },
    { 'nvme.read': { device: 'attacked', block: 64, blocks: 8, seed: 6 } },
    { disconnect: { device: 'attacked' } },
  ],

  // What private memory may grow by. AddressSanitizer keeps what was freed for a while: without
  // that (ASAN_OPTIONS=quarantine_size_mb=0) all attacks stay below 64K. Its leak check at the
  // process's end sees what is lost.
  slack:: '16M',

  // `attack` is done again and again against controller `attacked`, from connect to gone, beside
  // controller `witness` of the same process. `setup` is done once, before what the process holds
  // is counted.
  scenario(name, description, attack, rounds=20, setup=[], once=[], completion='msix',
           slack=lib.slack):: {
    name: 'hostile.' + name,
    description: description,
    processes: [disk.process({ attacked: disk.memory(), witness: disk.generated(7) })],
    devices: [
      disk.device('attacked') { connect: false },
      disk.device('witness'),
    ],
    steps:
      drive('witness', completion) +
      [
        { 'process.baseline': {}, note: 'its descriptors with nobody at `attacked`: see `gone`' },
        { connect: { device: 'attacked' } },
      ] + drive('attacked', completion) + [
        { 'nvme.write': { device: 'attacked', block: 0, blocks: 64, seed: 5 } },
      ] + lib.gone + setup + lib.witness(0) + [
        { 'process.check_growth': {} },
        { repeat: { times: 2, steps: attack }, note: 'warms it up' },
        { 'process.baseline': {} },
        { repeat: { times: rounds, steps: attack + lib.witness(1) } },
        { 'process.check_growth': { bytes: slack } },
      ] + once + lib.witness(2) + lib.next_client(completion) + lib.witness(3) +
      [{ 'process.check_growth': {} }, { 'process.expect_alive': {} }],
  },
}
