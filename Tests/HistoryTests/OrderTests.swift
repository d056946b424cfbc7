import Testing

@testable import LoadHistory

/// Reserves as orders: what is written, and what answers say.
struct OrderTests {
  private let names = SKUNames(prefix: "sku-")
  private let keys = KeyNames(run: RunID(7))

  private func text(_ field: UInt8, _ value: String) -> [UInt8] {
    [field << 3 | 2, UInt8(value.utf8.count)] + Array(value.utf8)
  }

  private func message(_ field: UInt8, _ bytes: [UInt8]) -> [UInt8] {
    [field << 3 | 2, UInt8(bytes.count)] + bytes
  }

  private func written(_ write: (inout MessageBuffer) -> Void) -> [UInt8] {
    var buffer = MessageBuffer()
    write(&buffer)
    return buffer.withSpan { bytes in bytes.indices.map { bytes[$0] } }
  }

  @Test func anOrderIsAReserveOfItsReference() {
    var ledger = Ledger(worker: 3, names: names, keys: keys, isOfOrders: true)
    for sku in [1, 2] as [UInt32] { ledger.addLine(CartLine(sku: sku, quantity: 5)) }
    let operation = ledger.openReserve(
      lineCount: 1, alternatives: 1, timeToLiveNanoseconds: 2_000_000_000,
      limit: SubjectLimit(subject: 9, maxUnits: 4))
    let key = keys.name(worker: 3, operation: operation)
    func line(_ sku: String) -> [UInt8] { text(1, sku) + [3 << 3, 5] }
    let first = text(1, key) + message(2, line("sku-0000001")) + message(3, [1 << 3, 2])
    let limit = text(1, "customer:0000009") + [2 << 3, 4]
    #expect(
      written { ledger.writeOrder(operation, to: &$0) }
        == first + message(4, message(1, line("sku-0000002"))) + message(5, limit))
    #expect(
      written { ledger.writeRequest(operation, .reserve, to: &$0) }
        == first + message(5, message(1, line("sku-0000002"))) + message(6, limit) + text(4, key))
  }

  @Test func knowsItsOwnKeys() {
    let key = keys.name(worker: 3, operation: 77)
    #expect(keys.operation(key, worker: 3) == 77)
    let others = [
      "", String(key.dropLast()), key + "0", key.uppercased() == key ? "x" : String(key.reversed()),
      KeyNames(run: RunID(8)).name(worker: 3, operation: 77), "-" + key.dropFirst(),
      String(key.prefix(12)) + "+000000077", String(key.prefix(12)) + "00000000é",
    ]
    for other in others { #expect(keys.operation(other, worker: 3) == nil, "\(other)") }
    #expect(keys.operation(key, worker: 4) == nil)
  }

  @Test func readsWhatWasHeld() {
    let id = "abcdefghijklmnopqrst"
    let body =
      text(1, "order") + text(2, id) + message(3, [1 << 3, 9, 2 << 3, 5]) + [4 << 3, 2]
      + message(5, text(1, "sku-0000001") + [3 << 3, 4]) + [6 << 3, 1] + text(15, "new")
    let result = ReserveResult(orderType: "StockReserved", body.span, names)
    guard case .accepted(let read, let expires, false, let grant) = result.reply else {
      Issue.record("\(result)")
      return
    }
    #expect(read.text == id && expires == 9_000_000_005 && result.code == 0)
    #expect(grant == Grant(alternative: 2, lines: [CartLine(sku: 1, quantity: 4)]))
    guard case .accepted(read, expires, true, grant) = result.asRepetition.reply else {
      Issue.record("no repetition")
      return
    }
  }

  @Test(arguments: [
    ("INSUFFICIENT_STOCK", 9, RefusalReason.insufficientStock),
    ("LIMIT_EXCEEDED", 9, .limitExceeded), ("ITEM_NOT_FOUND", 5, .itemNotFound),
    ("NOT_ON_SALE", 9, .other),
  ])
  func readsWhatWasRefused(_ reason: String, _ code: UInt8, _ read: RefusalReason) {
    let body =
      text(1, "order") + text(2, reason) + text(3, "words")
      + message(4, text(1, "sku") + text(2, "sku-0000002"))
      + message(4, text(1, "available") + text(2, "3"))
    let result = ReserveResult(orderType: "StockRejected", body.span, names)
    guard case .refused(let refusal) = result.reply else {
      Issue.record("\(result)")
      return
    }
    #expect(refusal.code == code && refusal.reason == read && result.code == Int(code))
    #expect(refusal.sku == 2 && refusal.available == 3 && !refusal.isReplayed)
    // What a call of its own is refused with is the same to whoever compares.
    let failure =
      [1 << 3, code] + text(2, reason) + message(4, text(1, "sku") + text(2, "sku-0000002"))
      + message(4, text(1, "available") + text(2, "3"))
    #expect(Refusal(failure: 0..<failure.count, in: failure.span, names) == refusal)
    guard case .refused(let again) = result.asRepetition.reply else { return }
    #expect(again.isReplayed && again.fingerprint == refusal.fingerprint)
  }

  @Test(
    arguments: [
      ("StockReserved", []), ("StockReserved", [0x12, 0x05, 1]), ("StockReserved", [0xff]),
      ("StockRejected", []), ("StockRejected", [0x12, 0x7f]), ("OrderPlaced", [0x0a, 0]), ("", []),
    ] as [(String, [UInt8])])
  func knowsNothingFromWhatIsNoAnswer(_ type: String, _ body: [UInt8]) {
    let result = ReserveResult(orderType: type, body.span, names)
    #expect(result == ReserveResult(reply: .unknown, code: 0))
  }
}
