local lsi = import '../lib/lsi.libsonnet';
local scsi = import '../lib/scsi.libsonnet';

local caching = [8, 18, 4] + std.repeat([0], 17);
local header(descriptors) = [0, 0, 0, descriptors];
local descriptor = [0, 0, 0, 0, 0, 0, 2, 0];
// MODE SELECT of the first `size` bytes of `list`.
local cut(list, size) = lsi.refused(
  scsi.mode_select6(size), scsi.asc.parameter_list_length, { data_out: scsi.bytes(list[:size]) }
);
local whole(list) = {
  'lsi.command': { cdb: scsi.mode_select6(std.length(list)), data_out: scsi.bytes(list) },
};
// UNMAP with a list of `size` bytes that says it has more.
local unmap(size, claims) = {
  'lsi.command': {
    cdb: scsi.bytes([66, 0, 0, 0, 0, 0, 0]) + scsi.be(size, 2) + scsi.bytes([0]),
    data_out: scsi.be(claims, 2) + scsi.be(claims, 2) + [{ zeroes: size - 4 }],
  },
};

lsi.scenario(
  'regressions.shape-03-scsi-cut-lists',
  'Parameter lists that are shorter than what they say they hold. Mutants scsi-mode-select-cut, ' +
  'scsi-mode-page-cut, scsi-unmap-past-list.',
  disks=[lsi.generated(seed=14) { discard: 'unmap' }],
  steps=[lsi.attention()] +
        [cut(header(8) + descriptor, size) for size in [1, 2, 3, 4, 5, 11]] +
        [cut(header(0) + caching, size) for size in [5, 6, 10, 23]] +
        [cut(header(8) + descriptor + caching, size) for size in [13, 14, 31]] +
        [whole(header(0)), whole(header(8) + descriptor), whole(header(8) + descriptor + caching)] +
        [unmap(size, claims) for size in [8, 9, 23, 24, 40] for claims in [16, 4096, 65535]] +
        [
          lsi.refused(scsi.bytes([66, 0, 0, 0, 0, 0, 0, 0, 7, 0]), scsi.asc.parameter_list_length, { data_out: [{ zeroes: 7 }] }),
          { 'lsi.read': { block: 0, blocks: 128, generated: 14 } },
          { 'process.expect_alive': {} },
        ],
)
