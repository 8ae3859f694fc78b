local disk = import '../lib/disk.libsonnet';

local submission(queue) = 4096 + 8 * queue;
local completion(queue) = submission(queue) + 4;
local ring(offset, value, size=4) = { 'bar.write': { bar: 0, offset: offset, value: value, size: size } };
// How many errors the log has: the count of its latest entry.
local errors(count, note) = {
  'nvme.get_log': { log: 1, length: 64, at: 0, size: 8, expect: { value: count } },
  note: note,
};

disk.scenario(
  'regressions.freebsd-d35453-doorbells',
  'Doorbells before the controller is ready, of queues never made, with values beyond the ring ' +
  'and of other sizes than theirs. Mutants nvme-doorbell-before-ready, nvme-doorbell-no-queue, ' +
  'nvme-doorbell-short, nvme-cq-head-past-tail.',
  steps=[
    { 'nvme.enable': {} },
    errors(0, 'none yet'),
    { 'nvme.disable': {} },
    ring(submission(0), 1),
    ring(completion(0), 1),
    ring(submission(1), 5),
    { 'nvme.enable': {} },
    errors(0, 'before RDY there are no doorbells'),
    { 'nvme.create_queues': { entries: 16 } },
  ] + [
    ring(offset, value)
    for queue in [2, 64, 65, 500, 1535]
    for offset in [submission(queue), completion(queue)]
    for value in [0, 1, 65535]
  ] + [
    errors(30, 'one for each'),
    ring(submission(1), 16),
    ring(submission(1), 65535),
    ring(completion(1), 1) { note: 'nothing was completed' },
    ring(completion(1), 15),
    errors(34, 'and these'),
    { 'nvme.write': { block: 1, blocks: 1, seed: 1 }, note: 'the queue is as it was' },
    ring(submission(1), 3, 2) { note: 'not whole' },
    ring(submission(1), 3, 1),
    ring(submission(1), 3, 8),
    ring(submission(1) + 2, 3, 2),
  ] + [
    { repeat: { times: 40, steps: [{ 'nvme.read': { block: 1, blocks: 1, seed: 1 } }] } },
    errors(34, 'no others'),
    { 'process.expect_alive': {} },
  ],
)
