import Testing

@testable import LoadHistory

@Suite struct MessageTests {
  private func bytes(_ write: (inout MessageBuffer) -> Void) -> [UInt8] {
    var buffer = MessageBuffer()
    write(&buffer)
    return buffer.withSpan { array($0) }
  }

  @Test func reserveRequest() {
    let names = SKUNames(prefix: "sku-")
    let message = bytes {
      $0.writeReserveKey(KeyNames(run: RunID(0xabc)), worker: 1, operation: 0x2f)
      $0.appendLine(CartLine(sku: 12, quantity: 300), names, field: 2)
      $0.appendTimeToLive(nanoseconds: 1_500_000_000, field: 3)
    }
    let fields = Fields(message)
    #expect(fields.text(1) == "0000000abc01000000002f")
    #expect(fields.nested(2).map { $0.text(1) } == ["sku-0000012"])
    #expect(fields.nested(2).map { $0.number(3) } == [300])
    #expect(fields.nested(3).map { [$0.number(1), $0.number(2)] } == [[1, 500_000_000]])
  }

  /// Alternatives are longer than what one byte can say, and a limit comes last.
  @Test func reserveRequestWithAlternativesAndALimit() {
    let names = SKUNames(prefix: "sku-")
    var ledger = Ledger(worker: 0, names: names, keys: KeyNames(run: RunID(1)))
    for sku in 0..<24 as Range<UInt32> {
      ledger.addLine(CartLine(sku: sku, quantity: 300, minimum: 150))
    }
    _ = ledger.openReserve(
      lineCount: 8, alternatives: 2, timeToLiveNanoseconds: 1_000_000_000,
      limit: SubjectLimit(subject: 12, maxUnits: 2))
    let fields = Fields(bytes { ledger.writeRequest(0, .reserve, to: &$0) })
    #expect(fields.nested(2).map { $0.text(1) } == (0..<8).map { names.name($0) })
    #expect(fields.nested(2).allSatisfy { $0.number(3) == 300 && $0.number(4) == 150 })
    let alternatives = fields.nested(5).map { $0.nested(1).map { $0.text(1) } }
    #expect(alternatives == [8..<16, 16..<24].map { $0.map { names.name($0) } })
    #expect(fields.nested(6).map { $0.text(1) } == ["customer:0000012"])
    #expect(fields.nested(6).map { $0.number(2) } == [2])
  }

  /// What protoc's own encoder writes for the bench tools' message.
  @Test func reserveLineByteForByte() {
    let message = bytes {
      $0.appendLine(CartLine(sku: 0, quantity: 1), SKUNames(prefix: "sku-"), field: 2)
    }
    #expect(message == [0x12, 15, 0x0a, 11] + Array("sku-0000000".utf8) + [0x18, 1])
  }

  @Test func reserveAnswer() throws {
    let id = Array("0123456789abcdefghij".utf8)
    let timestamp = Fields.varint(1, 1_700_000_000) + Fields.varint(2, 5)
    let message = Fields.bytes(1, id) + Fields.bytes(2, timestamp) + Fields.varint(3, 1)
    let read = ReserveAnswer(message.span, SKUNames(prefix: "sku-"))
    let answer = try #require(read)
    #expect(answer.id.text == "0123456789abcdefghij")
    #expect(answer.expiresNanoseconds == 1_700_000_000_000_000_005)
    #expect(answer.isReplayed)
    #expect(bytes { $0.writeEndRequest(answer.id) } == Fields.bytes(1, id))
    for length in 0..<message.count - 2 {
      let cut = ReserveAnswer(Array(message[..<length]).span, SKUNames(prefix: "sku-"))
      #expect(cut == nil, "cut at \(length)")
    }
  }

  @Test(
    arguments: [
      [], [0x0a, 200], [0x0a], [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1],
      [0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f], [0x0b], [0x0d, 1], [0x09, 1],
      Fields.bytes(1, Array("short".utf8)) + Fields.bytes(2, []),
      Fields.bytes(1, Array("0123456789abcdefghij".utf8))
        + Fields.bytes(2, Fields.varint(1, UInt64.max)),
    ] as [[UInt8]])
  func answersThatAreNone(message: [UInt8]) {
    let answer = ReserveAnswer(message.span, SKUNames(prefix: "sku-"))
    #expect(answer == nil)
  }

  @Test func refusalsCompareByWhatTheySay() {
    func details(_ reason: String, _ metadata: [(String, String)]) -> [UInt8] {
      let entries = metadata.flatMap {
        Fields.bytes(3, Fields.bytes(1, Array($0.0.utf8)) + Fields.bytes(2, Array($0.1.utf8)))
      }
      let any =
        Fields.bytes(1, Array("type.googleapis.com/google.rpc.ErrorInfo".utf8))
        + Fields.bytes(2, Fields.bytes(1, Array(reason.utf8)) + entries)
      return Fields.varint(1, 9) + Fields.bytes(3, any)
    }
    let names = SKUNames(prefix: "sku-")
    func refusal(_ bytes: [UInt8]) -> Refusal { Refusal(code: 9, details: bytes.span, names) }
    let first = refusal(
      details("INSUFFICIENT_STOCK", [("sku", "sku-0000007"), ("available", "3")]))
    #expect(first.reason == .insufficientStock)
    #expect(first.sku == 7)
    #expect(!first.isReplayed)
    let again = refusal(
      details(
        "INSUFFICIENT_STOCK", [("available", "3"), ("replayed", "true"), ("sku", "sku-0000007")]))
    #expect(again.isReplayed)
    #expect(again.fingerprint == first.fingerprint && again.sku == first.sku)
    let other = details("INSUFFICIENT_STOCK", [("sku", "sku-0000007"), ("available", "2")])
    #expect(refusal(other).fingerprint != first.fingerprint)
    #expect(refusal(details("WHATEVER", [])).reason == .other)
    #expect(refusal([1, 2, 3]).reason == .unnamed)
    #expect(refusal([]).sku == nil)
  }

  @Test(
    arguments: [
      (9, RefusalReason.insufficientStock, false), (10, .conflictTooBusy, true),
      (14, .conflictTooBusy, true),
      (14, .overloaded, true), (14, .storageFull, true), (8, .other, true),
    ] as [(UInt8, RefusalReason, Bool)])
  func decisionsAndNone(code: UInt8, reason: RefusalReason, isWithoutEffect: Bool) {
    let refusal = Refusal(code: code, reason: reason, sku: nil)
    #expect(Reply(refusal: refusal) == (isWithoutEffect ? .noEffect : .refused(refusal)))
  }

  @Test(arguments: [1, 2, 4, 8, 10, 13, 14, 15] as [UInt8])
  func withoutAReasonNobodyKnows(code: UInt8) {
    #expect(Reply(refusal: Refusal(code: code, reason: .unnamed, sku: nil)) == .unknown)
  }
}
