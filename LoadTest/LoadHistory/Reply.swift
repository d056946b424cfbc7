// What one answer means for the ledger.

/// What the ledger takes down of one answer.
package enum Reply: Equatable, Sendable {
  /// OK. `id` is of a Reserve alone; `expiresNanoseconds` (by the server's clock) of a Reserve or
  /// Extend; otherwise they are 0. `grant` is of a Reserve.
  case accepted(
    id: ReservationID, expiresNanoseconds: Int64, isReplayed: Bool, grant: Grant = Grant())
  /// The balances of the SKU that was asked for.
  case read(StockLevel)
  /// A decision against the call.
  case refused(Refusal)
  /// The server says that it did nothing, and that trying again may work.
  case noEffect
  /// Nobody knows what the server decided.
  case unknown

  /// Whether the server says that it had decided before.
  package var isReplayed: Bool {
    switch self {
    case .accepted(_, _, let isReplayed, _): isReplayed
    case .refused(let refusal): refusal.isReplayed
    case .read, .noEffect, .unknown: false
    }
  }

  /// - Parameter message: what an OK came with.
  package init(message: Span<UInt8>, of method: Method, _ names: SKUNames) {
    self = .unknown
    let noID = ReservationID(number: 0)
    switch method {
    case .reserve:
      guard let answer = ReserveAnswer(message, names) else { return }
      self = .accepted(
        id: answer.id, expiresNanoseconds: answer.expiresNanoseconds,
        isReplayed: answer.isReplayed, grant: answer.grant)
    case .extend:
      guard let answer = ExtendAnswer(message) else { return }
      self = .accepted(
        id: noID, expiresNanoseconds: answer.expiresNanoseconds, isReplayed: answer.isReplayed)
    case .getStock:
      guard let level = readStockLevel(message) else { return }
      self = .read(level)
    case .confirm, .release, .adjustStock, .replace, .batchGetStock, .batchReserve, .reserveStream:
      guard let isReplayed = readIsReplayed(message) else { return }
      self = .accepted(id: noID, expiresNanoseconds: 0, isReplayed: isReplayed)
    }
  }

  /// - Parameter refusal: what a status other than OK came with.
  package init(refusal: Refusal) {
    switch (refusal.code, refusal.reason) {
    case (3, _), (5, _), (9, _): self = .refused(refusal)
    // These are not decisions and are not recorded. RESOURCE_EXHAUSTED comes
    // before anything was changed; with no reason it may be another machine's.
    // CONFLICT_TOO_BUSY was ABORTED before it was UNAVAILABLE.
    case (10, .revisionMismatch), (10, .onHandMismatch): self = .refused(refusal)
    case (10, .conflictTooBusy), (14, .conflictTooBusy), (14, .overloaded), (14, .shuttingDown),
      (14, .storageFull), (14, .notOwner), (14, .leaseOver):
      self = .noEffect
    case (8, let reason) where reason != .unnamed: self = .noEffect
    case (7, _), (12, _), (16, _): self = .noEffect
    default: self = .unknown
    }
  }
}

/// What became of one Reserve of a message of many.
package struct ReserveResult: Equatable, Sendable {
  package let reply: Reply
  /// As a call that stands alone would have ended: 0 is OK.
  package let code: Int

  package init(reply: Reply, code: Int) {
    self.reply = reply
    self.code = code
  }
}

extension ReserveResult {
  /// A decision for a hold that nothing is known of.
  package static var accepted: ReserveResult {
    ReserveResult(
      reply: .accepted(id: ReservationID(number: 0), expiresNanoseconds: 0, isReplayed: false),
      code: 0)
  }

  /// The same as what the server says to a key that it knows already.
  package var asRepetition: ReserveResult {
    switch reply {
    case .accepted(let id, let expires, _, let grant):
      ReserveResult(
        reply: .accepted(id: id, expiresNanoseconds: expires, isReplayed: true, grant: grant),
        code: code)
    case .refused(let refusal):
      ReserveResult(
        reply: .refused(
          Refusal(
            code: refusal.code, reason: refusal.reason, sku: refusal.sku,
            available: refusal.available, used: refusal.used, fingerprint: refusal.fingerprint,
            isReplayed: true)), code: code)
    case .read, .noEffect, .unknown: self
    }
  }

  /// Reads what an order was answered: OrderReserved or OrderRejected, by the type that came with it. Undecided, as far
  /// as anybody knows, where it is neither.
  package init(orderType type: String, _ bytes: Span<UInt8>, _ names: SKUNames) {
    switch type {
    case "StockReserved":
      if let answer = ReserveAnswer(order: bytes, names) {
        let reply = Reply.accepted(
          id: answer.id, expiresNanoseconds: answer.expiresNanoseconds, isReplayed: false,
          grant: answer.grant)
        self.init(reply: reply, code: 0)
        return
      }
    case "StockRejected":
      if let refusal = Refusal(order: bytes, names) {
        self.init(reply: .refused(refusal), code: Int(refusal.code))
        return
      }
    default: break
    }
    self.init(reply: .unknown, code: 0)
  }
}

/// BatchReserveResponse and ReserveStreamResponse alike: results (1), each held (1), a ReserveResponse, or
/// failure (2). Appends one for each, in their order. False if the message is malformed: what was appended is
/// what could be read.
package func readReserveResults(
  _ bytes: Span<UInt8>, _ names: SKUNames, into results: inout [ReserveResult]
) -> Bool {
  var reader = MessageReader(0..<bytes.count)
  while let field = reader.next(in: bytes) {
    guard field.number == 1, field.isBytes else { continue }
    guard let result = readReserveResult(bytes, field.content, names) else { return false }
    results.append(result)
  }
  return !reader.isMalformed
}

private func readReserveResult(
  _ bytes: Span<UInt8>, _ range: Range<Int>, _ names: SKUNames
) -> ReserveResult? {
  var result: ReserveResult?
  var reader = MessageReader(range)
  while let field = reader.next(in: bytes) {
    guard field.isBytes else { continue }
    if field.number == 1 {
      result = ReserveResult(
        reply: Reply(message: bytes.extracting(field.content), of: .reserve, names), code: 0)
    } else if field.number == 2 {
      guard let refusal = Refusal(failure: field.content, in: bytes, names) else { return nil }
      result = ReserveResult(reply: Reply(refusal: refusal), code: Int(refusal.code))
    }
  }
  return reader.isMalformed ? nil : result
}
