local mpqemu = import '../lib/mpqemu.libsonnet';
local lsi = import '../lib/lsi.libsonnet';

local send(message) = [{ 'frame.send': message }];
// The header of `command` (a number), which claims `size` bytes (hexadecimal) and has none.
local claims(command, size) = send({ bytes: mpqemu.le(command, 4) + mpqemu.le(0, 4) + size });

mpqemu.hostile(
  'mpqemu.hostile-01-sizes',
  'Payloads of more bytes than there is room for, or of others than their command has, and ' +
  'commands that there are not, end the channel. Accesses of sizes that no bus has read as ones.',
  mpqemu.farside('lsi0', lsi.arguments([lsi.memory()])),
  [
    mpqemu.nonsense(claims(command, size))
    for command in [0, 2, 5, 7]
    for size in [mpqemu.le(193, 8), mpqemu.le(4096, 8), mpqemu.le(4294967296, 8), mpqemu.ones(8)]
  ] + [
    mpqemu.nonsense(send({ mpqemu: 'DEVICE_RESET', payload: std.repeat('5a', 193) })),
  ] + [
    mpqemu.nonsense(send({ mpqemu: command, payload: std.repeat('00', size) }))
    for command in ['PCI_CFGREAD', 'PCI_CFGWRITE', 'BAR_READ', 'BAR_WRITE']
    for size in [0, 11, 13, 23, 25, 192]
  ] + [
    mpqemu.nonsense(claims(command, mpqemu.le(0, 8)))
    for command in [1, 8, 255]
  ] + [
    mpqemu.nonsense(send({ bytes: mpqemu.ones(4) + std.repeat('00', 12) })),
  ] + [
    mpqemu.harmless(
      std.flattenArrays([
        mpqemu.ask('PCI_CFGREAD', mpqemu.config(0, size), mpqemu.ones(8)) +
        mpqemu.ask('PCI_CFGWRITE', mpqemu.config(4, size, mpqemu.ones(4)), mpqemu.le(0, 8))
        for size in [mpqemu.le(5, 4), mpqemu.le(8, 4), mpqemu.le(4096, 4), mpqemu.ones(4)]
      ]) +
      // The BARs have places, and are decoded.
      mpqemu.ask('PCI_CFGWRITE', mpqemu.config(20, mpqemu.le(4, 4), mpqemu.le(3221225472, 4)), '') +
      mpqemu.ask('PCI_CFGWRITE', mpqemu.config(4, mpqemu.le(2, 4), mpqemu.le(2, 4)), '') +
      std.flattenArrays([
        mpqemu.ask('BAR_READ', mpqemu.bar(mpqemu.le(3221225472, 8), size), mpqemu.ones(8)) +
        mpqemu.ask('BAR_WRITE', mpqemu.bar(mpqemu.le(3221225472, 8), size), mpqemu.le(0, 8))
        for size in [mpqemu.le(0, 4), mpqemu.le(3, 4), mpqemu.le(16, 4), mpqemu.ones(4)]
      ])
    ),
  ]
)
