// A disk-proc with NVMe controllers.
{
  // Media: options of -blockdev. Each is a disk of its own.
  memory(size='64M'):: { driver: 'memory', size: size },
  generated(seed, size='64M'):: { driver: 'generated', size: size, seed: std.toString(seed) },

  local join(options) =
    std.join(',', ['%s=%s' % [key, options[key]] for key in std.objectFields(options)]),

  // A process that serves controller ID on the socket ID.sock, for each of `controllers`, an object
  // of media by id. `properties` are -device's, of all of them.
  process(controllers, properties={}, id='disk'):: {
    id: id,
    exec: 'disk-proc',
    args: std.flattenArrays([
      [
        '-blockdev',
        join(controllers[name] { 'node-name': name + '-disk' }),
        '-device',
        'nvme,' + join({ id: name, drive: name + '-disk', serial: 'SERIAL-' + name } + properties),
        '-object',
        join({
          'qom-type': 'x-vfio-user-server',
          id: name + '-server',
          type: 'unix',
          path: name + '.sock',
          device: name,
        }),
      ]
      for name in std.objectFields(controllers)
    ]),
  },

  device(id, process='disk'):: { id: id, process: process, socket: id + '.sock' },

  // A scenario with one controller, nvme0. `more` are other members of the document.
  scenario(name, description, steps, medium=$.memory(), properties={}, more={}):: more {
    name: name,
    description: description,
    processes: [$.process({ nvme0: medium }, properties)],
    devices: [$.device('nvme0')],
    steps: steps,
  },
}
