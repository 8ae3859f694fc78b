local lib = import 'lib.libsonnet';

local feature(flags, errno=0, data=[], expect={}, note=null) =
  lib.call('DEVICE_FEATURE', lib.feature(flags, data), errno, expect=expect, note=note);
local f = lib.features;
local get = lib.get;
local set = lib.set;
local probe = lib.probe;

// The reply to a probe repeats the flags.
local probed(flags) =
  feature(flags, expect={ size: 24, at: 4, width: 4, expect: { value: flags } });

lib.scenario(
  '21-feature-flags',
  'DEVICE_FEATURE with each combination of GET, SET and PROBE, for features that are there, ' +
  'that lack the operation, and that are not there.',
  attack=lib.client(
    lib.flat([
      feature(number + operations, 'ENOTTY', note='no such feature')
      for number in [0, 3, 4, 5, 9, 10, 11, 65535]
      for operations in [get, set, probe, probe + get + set]
    ]) +
    lib.flat([
      feature(number, 'EINVAL', note='no operation') +
      feature(number + get + set, 'EINVAL', note='two, and no probe')
      for number in [f.migration, f.state, f.log_start, 9]
    ]) +
    feature(f.state + get + 2 * probe, 'EINVAL', note='an unknown flag') +
    feature('0xffffffff', 'EINVAL') +
    probed(f.state + probe) + probed(f.state + probe + get) + probed(f.state + probe + set) +
    probed(f.state + probe + get + set) + probed(f.migration + probe + get) +
    probed(f.log_start + probe + set) + probed(f.log_stop + probe + set) +
    probed(f.log_report + probe + get) +
    feature(f.migration + probe + set, 'EINVAL', note='what the feature lacks') +
    feature(f.migration + probe + get + set, 'EINVAL') +
    feature(f.log_start + probe + get, 'EINVAL') +
    feature(f.log_report + probe + get + set, 'EINVAL') +
    feature(f.migration + set, 'EINVAL', [{ zeroes: 8 }]) +
    feature(f.log_start + get, 'EINVAL') +
    feature(f.log_stop + get, 'EINVAL') +
    feature(f.log_report + set, 'EINVAL') +
    feature(f.state + probe + set,
            0,
            lib.u32([lib.states.stop, 0]),
            note='a probe does nothing of what it asks about') +
    feature(f.state + get, 0, expect={ at: 8, expect: { value: lib.states.running } }) +
    feature(f.state + set, 'EINVAL', note='without a state') +
    feature(f.state + set, 'EINVAL', lib.u32([lib.states.stop])) +
    lib.call('DEVICE_FEATURE', lib.u32([8]), 'EINVAL') +
    lib.call('DEVICE_FEATURE', [], 'EINVAL') +
    lib.in_step
  ),
)
