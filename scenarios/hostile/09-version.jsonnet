local lib = import 'lib.libsonnet';

local refused(payload, note=null) = lib.doomed(
  lib.call('VERSION', payload, 'EINVAL', note=note), negotiated=false
);
local json(text) = lib.version_payload(text);
local capability(text) = json('{"capabilities":{%s}}' % text);
local deep = std.repeat('[', 2000);

// Whole messages that say nothing: the client may try again.
local unsaid = [
  [],
  lib.u16(0),
  [{ zeroes: 4 }, { text: '{}' }],
  [{ zeroes: 4 }, { text: '{}' }, { zeroes: 2 }],
  [{ zeroes: 5 }, { text: '{}' }],
  [{ zeroes: 4 }, { text: '{}' }, { u8: 0 }, { text: '{}' }, { u8: 0 }],
];

lib.scenario(
  '09-version',
  'VERSION late, twice, of another protocol, and with texts that are no JSON or not what is ' +
  'due.',
  setup=[{ 'fd.make': { name: 'event', kind: 'eventfd' } }],
  attack=
  refused(lib.version_payload(major=1), 'another protocol') +
  refused(lib.version_payload(major=65535)) +
  lib.flat([
    refused(json(text))
    for text in [
      '{',
      '[]',
      '7',
      '"text"',
      'nonsense',
      '{"capabilities":',
      '{"capabilities":{}}}',
      '{"capabilities":[]}',
      '{"a":' + deep,
      deep + std.repeat(']', 2000),
    ]
  ] + [
    refused(capability(text))
    for text in [
      '"pgsizes":"x"',
      '"max_msg_fds":-1',
      '"max_msg_fds":1.5',
      '"max_data_xfer_size":0',
      '"max_data_xfer_size":1e400',
      '"max_data_xfer_size":99999999999999999999999',
      '"write_multiple":1',
      '"migration":true',
      '"twin_socket":[]',
      '"farside":7',
    ]
  ]) +
  [lib.connect()] +
  lib.flat([lib.call('VERSION', payload, 'EINVAL') for payload in unsaid]) +
  lib.call('VERSION', json('{}'), 'EINVAL', send={ fds: ['event'] }, note='with an fd') +
  lib.flat([
    lib.call(early[0], early[1], 'EINVAL', note='before VERSION')
    for early in [
      ['DMA_MAP', lib.dma_map(0, 4096)],
      ['REGION_WRITE', lib.access(lib.regions.bar0, 20, 4, lib.u32([0]))],
      ['DEVICE_RESET', []],
      ['DEVICE_GET_INFO', lib.u32([16, 0, 0, 0])],
    ]
  ]) +
  lib.call('VERSION',
           lib.version_payload('{"capabilities":{"unheard_of":[1]}}', minor=65535),
           expect={ at: 0, width: 4, expect: { value: '0x20000' } },
           note='late, but well: answered with 0.2') +
  lib.call('VERSION', json('{}'), 'EINVAL', note='twice') +
  lib.call('VERSION', capability('"max_data_xfer_size":1'), 'EINVAL') +
  lib.call('VERSION', lib.version_payload(major=1), 'EINVAL') +
  lib.noted(lib.in_step, 'what was agreed on holds') +
  lib.gone +
  [lib.note(lib.connect(), 'a client that never says anything')] + lib.witness_answers + lib.gone,
  rounds=5,
  slack='32M',  // Many clients, each with a buffer.
)
