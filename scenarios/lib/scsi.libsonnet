// CDBs, as the pieces of bytes that verbs take. Numbers are big-endian in them.
{
  local scsi = self,

  bytes(numbers):: [{ u8: n } for n in numbers],
  // `size` bytes of a number.
  be(value, size):: scsi.bytes([(value >> 8 * (size - 1 - i)) & 255 for i in std.range(0, size - 1)]),

  test_unit_ready:: scsi.bytes([0, 0, 0, 0, 0, 0]),
  request_sense(size=18):: scsi.bytes([3, 0, 0, 0, size, 0]),
  inquiry(size=36, page=null)::
    scsi.bytes([18, if page == null then 0 else 1, if page == null then 0 else page]) +
    scsi.be(size, 2) + scsi.bytes([0]),
  mode_sense6(page, size=255, control=0, dbd=false)::
    scsi.bytes([26, if dbd then 8 else 0, control * 64 + page, 0, size, 0]),
  mode_sense10(page, size=512)::
    scsi.bytes([90, 0, page, 0, 0, 0, 0]) + scsi.be(size, 2) + scsi.bytes([0]),
  mode_select6(size):: scsi.bytes([21, 16, 0, 0, size, 0]),
  mode_select10(size):: scsi.bytes([85, 16, 0, 0, 0, 0, 0]) + scsi.be(size, 2) + scsi.bytes([0]),
  read_capacity10:: scsi.bytes([37, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
  read_capacity16(size=32):: scsi.bytes([158, 16]) + scsi.be(0, 8) + scsi.be(size, 4) + scsi.bytes([0, 0]),
  read10(block, blocks=1)::
    scsi.bytes([40, 0]) + scsi.be(block, 4) + scsi.bytes([0]) + scsi.be(blocks, 2) + scsi.bytes([0]),
  write10(block, blocks=1)::
    scsi.bytes([42, 0]) + scsi.be(block, 4) + scsi.bytes([0]) + scsi.be(blocks, 2) + scsi.bytes([0]),
  synchronize_cache10:: scsi.bytes([53, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
  report_luns(size=16):: scsi.bytes([160, 0, 0, 0, 0, 0]) + scsi.be(size, 4) + scsi.bytes([0, 0]),

  // Messages.
  identify(lun=0, disconnect=false):: (if disconnect then 192 else 128) + lun,
  messages:: {
    complete: 0,
    extended: 1,
    save_data_pointers: 2,
    disconnect: 4,
    abort: 6,
    reject: 7,
    bus_device_reset: 12,
    abort_tag: 13,
    clear_queue: 14,
    simple_tag: 32,
  },

  // Sense keys, and additional sense codes with their qualifiers.
  keys:: { none: 0, not_ready: 2, illegal_request: 5, unit_attention: 6, aborted: 11 },
  asc:: {
    parameter_list_length: '0x1a00',
    invalid_opcode: '0x2000',
    lba_out_of_range: '0x2100',
    invalid_field_in_cdb: '0x2400',
    invalid_field_in_list: '0x2600',
    reset: '0x2900',
    bus_device_reset: '0x2903',
  },
}
