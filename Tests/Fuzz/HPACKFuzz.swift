// Blocks for HPACK's decoder alone, whole and in parts.
internal import HTTP2

/// Several blocks, each with its length in front in one byte, in parts: what a decoder makes of them must
/// not depend on where the parts end.
func fuzzHPACK(_ input: Span<UInt8>, cut: Int) {
  var whole = HPACKDecoder(tableBytesMax: 16_384)
  var parts = HPACKDecoder(tableBytesMax: 16_384)
  var scratch = HPACKScratch(capacity: 16_384)
  var at = 0
  while at < input.count {
    let end = min(input.count, at + 1 + Int(input[at]) * 16)
    let block = input.extracting(at + 1..<end)
    at = end
    var fields = CountedFields()
    let isGood = decode(block, part: max(1, block.count), &whole, &scratch, &fields)
    var again = CountedFields()
    let isGoodAgain = decode(block, part: 1 + cut, &parts, &scratch, &again)
    precondition(isGood == isGoodAgain, "parts make a difference")
    if !isGood { return }
    precondition(fields.hash == again.hash, "parts make a difference to the fields")
    precondition(whole.tableCount == parts.tableCount && whole.tableBytes == parts.tableBytes)
    precondition(whole.tableBytes <= 16_384 && whole.tableMemoryBytes <= 32 * 1024)
    if !HPACKBlock.changesTable(block) {
      var third = CountedFields()
      precondition(decode(block, part: max(1, block.count), &whole, &scratch, &third))
      precondition(third.hash == fields.hash, "the block changed the table")
    }
  }
}

private func decode(
  _ block: Span<UInt8>, part: Int, _ decoder: inout HPACKDecoder, _ scratch: inout HPACKScratch,
  _ fields: inout CountedFields
) -> Bool {
  var used = 0
  var end = 0
  repeat {
    end = min(block.count, end + part)
    let rest = block.extracting(used..<end)
    guard
      let more = try? decoder.decode(rest, isLast: end == block.count, &scratch, &fields)
    else { return false }
    used += more
    precondition(end - used <= 8 * 16_384 + 32)
  } while end < block.count
  precondition(used == block.count)
  return true
}

private struct CountedFields: HPACKFieldSink {
  var hash: UInt64 = 14_695_981_039_346_656_037

  mutating func add(_ byte: UInt8) { hash = (hash ^ UInt64(byte)) &* 1_099_511_628_211 }

  mutating func field(_ name: Span<UInt8>, _ value: Span<UInt8>) {
    for index in name.indices { add(name[index]) }
    add(0)
    for index in value.indices { add(value[index]) }
    add(1)
  }

  mutating func skippedField(listBytes: Int) {
    for shift in [0, 8, 16] { add(UInt8(truncatingIfNeeded: listBytes >> shift)) }
  }
}
