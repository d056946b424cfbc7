// What a coverage-guided fuzzer gives its bytes to: HPACK's decoder, and a whole server session. Neither may
// trap, and both must keep their promises. Compiled into one module with Sources/HTTP2, as in
//
//   swiftc -sanitize=fuzzer -parse-as-library -O -package-name holdfast -swift-version 6 \
//     -enable-upcoming-feature MemberImportVisibility \
//     $(find Sources/HTTP2 -name '*.swift') Tests/Fuzz/HTTP2Fuzz.swift -o fuzz-http2
//
// The first byte of an input chooses the target, the second how the rest is cut.

@_cdecl("LLVMFuzzerTestOneInput")
public func fuzzHTTP2(_ start: UnsafePointer<UInt8>?, _ count: Int) -> CInt {
  guard count > 2, let start = unsafe start else { return 0 }
  let input = unsafe UnsafeBufferPointer(start: start + 2, count: count - 2).span
  if unsafe start[0] & 1 == 0 {
    fuzzHPACK(input, cut: unsafe Int(start[1]))
  } else {
    fuzzSession(input, cut: unsafe Int(start[1]))
  }
  return 0
}

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

/// One for all inputs, as a loop has one for all its connections: what one leaves behind meets the next.
nonisolated(unsafe) private let context = makeContext()

private func makeContext() -> SessionContext {
  let budget = Budget(burst: 1000, perSecond: 1)
  return SessionContext(
    limits: HTTP2Limits(
      concurrentStreams: 8, headerListBytesMax: 4096, headerBlockBytesMax: 1 << 18,
      headerTableBytes: 4096, bodyBytesMax: 4096, bufferedBytesMax: 1 << 16,
      connectionWindowBytes: 1 << 20, streamWindowBytes: 1 << 16, resets: budget, pings: budget,
      settings: budget, emptyFrames: budget),
    fieldNames: [":method", ":path", "content-type", "grpc-encoding", "caller"],
    timeoutName: "grpc-timeout")
}

/// A connection whose preface has come, and then the input in parts of `cut` + 1 bytes.
func fuzzSession(_ input: Span<UInt8>, cut: Int) {
  guard let session = context.open(token: 1) else { return }
  let opening = Array("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".utf8) + [0, 0, 0, 4, 0, 0, 0, 0, 0]
  _ = unsafe opening.withUnsafeBytes { unsafe session.receive($0) }
  var at = 0
  while at < input.count, !session.isFinished {
    let end = min(input.count, at + cut + 1)
    _ = unsafe input.extracting(at..<end).withUnsafeBytes { unsafe session.receive($0) }
    at = end
    handleEvents(context)
    while session.wantsWrite {
      session.fillOutput()
      context.clearOutput()
    }
    handleEvents(context)
  }
  session.close()
  handleEvents(context)
}

private func handleEvents(_ context: SessionContext) {
  let message: [UInt8] = [1, 2, 3]
  var index = 0
  while index < context.eventCount {
    let event = context.event(at: index)
    index += 1
    switch event.kind {
    case .head:
      context.setHead(Int32(event.stream.index & 1), of: event.stream)
      if event.stream.index & 2 != 0 { context.wantData(event.stream) }
    case .data:
      let count = context.withBody(of: event.stream) { body, _ in body.count } ?? 0
      context.consume(count, of: event.stream)
    case .end, .oversize, .headerListTooLarge:
      context.send(message.span, on: event.stream, ends: true)
    case .closed: context.release(event.stream)
    }
  }
  context.clearEvents()
}
