local lib = import 'lib.libsonnet';

local read = lib.access(lib.regions.config, 0, 2);

// A client whose answer to the fetch of a command ends in `csts`.
local answered(reply, after, csts) = lib.client(
  lib.enable_nvme() + lib.doorbell(1) + [lib.dma_request('DMA_READ', lib.sq, 64), reply] + after +
  lib.csts(csts) + lib.in_step
);
local reply(more) = lib.dma_reply('DMA_READ', lib.sq, 64, lib.get_features(3), more=more);

local ready = 1;
local fatal = 3;

lib.scenario(
  '06-error-flag',
  'The error flag decides: with it a reply is an error, whatever its number and its size; ' +
  'without it the number means nothing. On commands neither means anything.',
  attack=
  lib.noted(answered(reply({ flags: 33 }), [], fatal), 'the flag without a number') +
  answered(reply({ flags: 33, errno: 'EIO' }), [], fatal) +
  lib.noted(answered(
              lib.send('DMA_READ', [], { flags: 33, errno: 0, id: '$dma' }), [], fatal
            ), 'and without a payload') +
  lib.noted(answered(
              reply({ flags: 1, errno: 'EIO' }),
              [lib.dma_request('DMA_WRITE', lib.cq, 16), lib.dma_reply('DMA_WRITE', lib.cq, 16)],
              ready
            ), 'a number without the flag') +
  lib.client([
    lib.note(lib.send('REGION_READ', read, { flags: 32, errno: 'EIO' }), 'a command with both'),
    lib.vendor_id,
    lib.send('REGION_READ', read, { flags: 0, errno: 'EIO' }),
    lib.vendor_id,
  ]),
)
