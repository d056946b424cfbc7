// Commands with text for names, for tests: the store itself borrows bytes.
internal import Posix
package import StockStore

/// One line of a command in a test.
package struct TestLine: Equatable, Sendable {
  package var sku: String
  package var location = ""
  package var quantity: Int64
  /// Of a reserve: so many would do; 0: only all.
  package var minimum: Int64 = 0

  package init(sku: String, location: String = "", quantity: Int64, minimum: Int64 = 0) {
    self.sku = sku
    self.location = location
    self.quantity = quantity
    self.minimum = minimum
  }

  /// Units that would do.
  package var enough: Int64 { minimum > 0 ? minimum : quantity }
}

/// A limit of a reserve in a test.
package struct TestLimit: Equatable, Sendable {
  package var subject: String
  package var maxUnits: Int64

  package init(_ subject: String, _ maxUnits: Int64) {
    self.subject = subject
    self.maxUnits = maxUnits
  }
}

/// Limits of a small store.
package func testLimits(items: Int = 1000, reservations: Int = 100_000) -> StoreLimits {
  StoreLimits(
    linesPerReservation: 64, quantityMax: 1 << 40, ttlNanosecondsMin: 1_000_000_000,
    ttlNanosecondsDefault: 600_000_000_000,
    holdNanosecondsMax: 86_400_000_000_000, retentionNanoseconds: 86_400_000_000_000,
    itemsMax: items, reservationsMax: reservations)
}

/// `count` seconds in nanoseconds.
package func seconds(_ count: Int64) -> Int64 { count * 1_000_000_000 }

/// Calls `body` with the bytes of `text`.
package func withBytes<R>(_ text: String, _ body: (BorrowedBytes) -> R) -> R {
  var text = text
  return text.withUTF8 { bytes in
    // The bytes stay for the length of the closure.
    unsafe body(BorrowedBytes(bytes.baseAddress, count: bytes.count))
  }
}

/// Calls `body` with an item's name.
package func withName<R>(_ sku: String, _ location: String, _ body: (ItemName) -> R) -> R {
  withBytes(sku) { sku in
    withBytes(location) { location in body(ItemName(sku: sku, location: location)) }
  }
}

/// Calls `body` with the scope of a key.
package func withScope<R>(_ key: String, caller: String, _ body: (IdempotencyScope) -> R) -> R {
  withBytes(key) { key in
    withBytes(caller) { caller in body(IdempotencyScope(caller: caller, key: key)) }
  }
}

extension TestRequester {
  /// Calls `body` with this as the store takes it.
  package func withBytes<R>(_ body: (Requester) -> R) -> R {
    Simulation.withBytes(caller) { body(Requester(caller: $0, ownHoldsOnly: ownHoldsOnly)) }
  }
}

extension StoreSession {
  /// Reserves as a batch does.
  /// - Returns: `isAtOnce`: nothing stood in the way.
  package func reserveInBatch(
    _ key: String, _ line: TestLine, ttl: Int64?, caller: String = ""
  ) -> (decision: Decision<Hold>?, isAtOnce: Bool) {
    let whole = WholeReserve(quantity: line.quantity, ttlNanoseconds: ttl)
    return withScope(key, caller: caller) { scope in
      withName(line.sku, line.location) { item in
        prepareReserve(0, scope, item, whole: whole)
        fetchPrepared(0)
        usePrepared(0)
        defer { usePrepared(nil) }
        let held = holdPrepared()
        if !held.isMade { return (reservePrepared(), false) }
        let hold = Hold(
          id: held.id, expiresAt: Timestamp(nanoseconds: held.expiresAt), state: .held,
          remainingNanoseconds: held.expiresAt - time)
        return (Decision(.accepted(hold), replayed: false, lsn: held.lsn), true)
      }
    }
  }
}

extension StoreSession {
  /// Calls `body` with `lines` as the lines of its command; false in `fit` where they are too many.
  package func withLines<R>(_ lines: [TestLine], _ body: (_ fit: Bool) -> R) -> R {
    clearLines()
    return appendLines(lines[...], body)
  }

  private func appendLines<R>(_ lines: ArraySlice<TestLine>, _ body: (_ fit: Bool) -> R) -> R {
    guard let line = lines.first else { return body(true) }
    // One call inside the other: the bytes of all lines stay until the command has returned.
    return withName(line.sku, line.location) { item in
      guard appendLine(LineRequest(item: item, quantity: line.quantity)) else { return body(false) }
      if line.minimum > 0 { setMinimum(line.minimum) }
      return appendLines(lines.dropFirst(), body)
    }
  }

  /// Calls `body` with these alternatives to its command's lines.
  private func withAlternatives<R>(
    _ alternatives: ArraySlice<[TestLine]>, _ body: () -> R
  ) -> R {
    guard let lines = alternatives.first else { return body() }
    precondition(beginAlternative(), "more alternatives than there may be")
    return appendToAlternative(lines[...]) {
      withAlternatives(alternatives.dropFirst(), body)
    }
  }

  private func appendToAlternative<R>(_ lines: ArraySlice<TestLine>, _ body: () -> R) -> R {
    guard let line = lines.first else { return body() }
    return withName(line.sku, line.location) { item in
      let fits = appendToAlternative(
        LineRequest(item: item, quantity: line.quantity), minimum: line.minimum)
      precondition(fits, "more lines than there may be")
      return appendToAlternative(lines.dropFirst(), body)
    }
  }

  /// Reserve with text.
  package func reserve(
    _ key: String, _ lines: [TestLine], alternatives: [[TestLine]] = [],
    ttl: Int64? = seconds(600), reference: String = "", limits: [TestLimit] = [],
    caller: String = ""
  ) -> Decision<Hold> {
    withLines(lines) { _ in
      withAlternatives(alternatives[...]) {
        withLimits(limits[...]) {
          withScope(key, caller: caller) { scope in
            withBytes(reference) { reserve(scope, ttlNanoseconds: ttl, reference: $0) }
          }
        }
      }
    }
  }

  /// As `appendLines`.
  private func withLimits<R>(_ limits: ArraySlice<TestLimit>, _ body: () -> R) -> R {
    guard let limit = limits.first else { return body() }
    return withBytes(limit.subject) { subject in
      _ = appendLimit(SubjectLimit(subject: subject, maxUnits: limit.maxUnits))
      return withLimits(limits.dropFirst(), body)
    }
  }

  /// The subject of the last command's `limitExceeded`.
  package var refusedSubjectText: String {
    unsafe String(decoding: refusedSubject.pointer, as: UTF8.self)
  }

  /// Replace with text.
  package func replace(
    _ key: String, _ replacement: Model.Replacement, by requester: TestRequester = TestRequester()
  ) -> Decision<ReservationView> {
    withLines(replacement.lines) { _ in
      withScope(key, caller: requester.caller) { scope in
        withBytes(replacement.reference) { reference in
          requester.withBytes {
            replace(
              ReplaceCommand(
                scope: scope, reservation: replacement.id,
                expectedRevision: replacement.expectedRevision, ttlNanoseconds: replacement.ttl,
                reference: reference), by: $0)
          }
        }
      }
    }
  }

  /// GetReservation by the key of its Reserve.
  package func reservation(key: String, caller: String = "") -> Decision<ReservationView> {
    withScope(key, caller: caller) { reservation(of: $0) }
  }

  /// Reserve of one line.
  package func reserve(
    _ key: String, _ sku: String, _ quantity: Int64, ttl: Int64? = seconds(600)
  ) -> Decision<Hold> {
    reserve(key, [TestLine(sku: sku, quantity: quantity)], ttl: ttl)
  }

  /// Confirm with lines.
  package func confirm(
    _ id: ReservationID, _ lines: [TestLine] = [], reacquire: Bool = false,
    keepCommitted: Bool = false, by requester: TestRequester = TestRequester()
  ) -> Decision<ReservationView> {
    withLines(lines) { _ in
      requester.withBytes {
        confirm(id, reacquireIfExpired: reacquire, keepCommitted: keepCommitted, by: $0)
      }
    }
  }

  /// Release with text.
  package func release(
    _ id: ReservationID, by requester: TestRequester
  ) -> Decision<ReservationView> {
    requester.withBytes { release(id, by: $0) }
  }

  /// Extend with text.
  package func extend(
    _ id: ReservationID, ttl: Int64?, mayShorten: Bool = false, by requester: TestRequester
  ) -> Decision<ReservationView> {
    requester.withBytes {
      extend(id, ttlNanoseconds: ttl, mayShorten: mayShorten, by: $0)
    }
  }

  /// AdjustStock with text.
  package func adjust(
    _ key: String, _ sku: String, _ change: AdjustCommand.Change, location: String = "",
    safetyStock: Int64? = nil, sale: TestSale? = nil, expectedVersion: UInt64? = nil,
    expectedOnHand: Int64? = nil, allowsShortage: Bool = false, reason: String = "test",
    caller: String = ""
  ) -> Decision<StockLevel> {
    let check: AdjustCommand.Check =
      expectedVersion.map { .version($0) } ?? expectedOnHand.map { .onHand($0) } ?? .none
    return withScope(key, caller: caller) { scope in
      withName(sku, location) { item in
        withBytes(reason) { reason in
          adjust(
            AdjustCommand(
              scope: scope, item: item, change: change, safetyStock: safetyStock,
              sale: sale?.window, check: check, allowsShortage: allowsShortage, reason: reason))
        }
      }
    }
  }

  /// RemoveItem with text.
  package func remove(
    _ key: String, _ sku: String, location: String = "", expectedVersion: UInt64 = 0,
    reason: String = "test", caller: String = ""
  ) -> Decision<Bool> {
    withScope(key, caller: caller) { scope in
      withName(sku, location) { item in
        withBytes(reason) {
          remove(
            RemoveCommand(
              scope: scope, item: item, expectedVersion: expectedVersion, reason: $0))
        }
      }
    }
  }

  /// The same as the model has it.
  package func remove(
    _ key: String, _ removal: Model.Removal, caller: String = ""
  ) -> Decision<Bool> {
    remove(
      key, removal.sku, expectedVersion: removal.expectedVersion, reason: removal.reason,
      caller: caller)
  }

  /// AdjustStock as the model has it.
  package func adjust(
    _ key: String, _ adjustment: Model.Adjustment, caller: String = ""
  ) -> Decision<StockLevel> {
    withScope(key, caller: caller) { scope in
      withName(adjustment.sku, "") { item in
        withBytes(adjustment.reason) { reason in
          withBytes(adjustment.reference) { reference in
            adjust(
              AdjustCommand(
                scope: scope, item: item, change: adjustment.change,
                safetyStock: adjustment.safetyStock, sale: adjustment.sale?.window,
                check: adjustment.check, allowsShortage: adjustment.allowsShortage,
                reference: reference, reason: reason))
          }
        }
      }
    }
  }

  /// BatchAdjustStock as the model has it; those beyond what it takes are left out.
  package func adjustTogether(
    _ key: String, _ batch: Model.Batch, caller: String = ""
  ) -> Decision<Int> {
    clearChanges()
    return appendChanges(batch.adjustments[...]) {
      withScope(key, caller: caller) { scope in
        withBytes(batch.reference) { reference in
          withBytes(batch.reason) { reason in
            adjustTogether(BatchAdjustCommand(scope: scope, reference: reference, reason: reason))
          }
        }
      }
    }
  }

  private func appendChanges<R>(
    _ adjustments: ArraySlice<Model.Adjustment>, _ body: () -> R
  ) -> R {
    guard let adjustment = adjustments.first else { return body() }
    // One call inside the other, as with lines.
    return withName(adjustment.sku, "") { item in
      let empty = IdempotencyScope(caller: .empty, key: .empty)
      _ = appendChange(
        AdjustCommand(
          scope: empty, item: item, change: adjustment.change,
          safetyStock: adjustment.safetyStock, check: adjustment.check,
          allowsShortage: adjustment.allowsShortage, reason: .empty))
      return appendChanges(adjustments.dropFirst(), body)
    }
  }

  /// The rows of one record of an import.
  package func importRows(
    _ id: String, firstRow: UInt64, _ rows: [Model.Adjustment], caller: String = ""
  ) -> Decision<ImportProgress> {
    clearChanges()
    return appendChanges(rows[...]) {
      withScope(id, caller: caller) {
        importRows(ImportCommand(scope: $0, firstRow: firstRow))
      }
    }
  }

  /// How far an import is.
  package func importedRows(_ id: String, caller: String = "") -> (rows: UInt64, lsn: UInt64) {
    withScope(id, caller: caller) { importedRows($0) }
  }

  /// The answer to the `count` rows that this session imported last.
  package func answer(_ decision: Decision<ImportProgress>, of count: Int) -> Model.Answer {
    guard let progress = decision.value else { return .refused(refusals(of: decision)) }
    return .imported(
      next: progress.nextRow,
      progress.changed == nil ? nil : (0..<count).map { importRefusal($0) })
  }

  /// The answer to the changes that this session made together last.
  package func answerTogether(_ decision: Decision<Int>) -> Model.Answer {
    switch decision.result {
    case .accepted(let count): .levels((0..<count).map { changedLevel($0) })
    case .refused(let refusal): .refusedTogether(refusal, change: refusedChange)
    }
  }

  /// The balances of an item; nil where it is unknown.
  package func level(_ sku: String, location: String = "") -> StockLevel? {
    withName(sku, location) { stock($0) }.value
  }

  /// All refusals of the command that this session did last: none if `decision`, its answer, accepts it.
  package func refusals<Value>(of decision: Decision<Value>) -> [Refusal] {
    guard let first = decision.refusal else { return [] }
    return [first] + (0..<furtherRefusalCount).map { furtherRefusal($0) }
  }

  /// The answer to the reserve that this session did last.
  package func answer(_ decision: Decision<Hold>) -> Model.Answer {
    guard let hold = decision.value else {
      return .refused(refusals(of: decision), alternatives: alternativesTried)
    }
    return .hold(
      id: hold.id, expiresAt: hold.expiresAt.nanoseconds, state: hold.state,
      remaining: hold.remainingNanoseconds,
      chosen: Model.Chosen(
        alternative: hold.choice.alternative, lines: hold.choice.tellsLines ? viewLines : [:]))
  }

  /// The answer to the adjustment that this session did last.
  package func answer(_ decision: Decision<StockLevel>) -> Model.Answer {
    decision.value.map { .level($0) } ?? .refused(refusals(of: decision))
  }

  /// The answer to the removal that this session did last.
  package func answer(_ decision: Decision<Bool>) -> Model.Answer {
    decision.value == true ? .removed : .refused(refusals(of: decision))
  }

  /// The answer to the replace that this session did last.
  package func answer(_ decision: Decision<ReservationView>) -> Model.Answer {
    guard let view = decision.value else { return .refused(refusals(of: decision)) }
    return .replaced(
      Model.Replaced(
        id: view.id, lines: viewLines, createdAt: view.createdAt.nanoseconds,
        expiresAt: view.expiresAt.nanoseconds, revision: view.revision, reference: referenceText))
  }

  /// The reference of the last view.
  package var referenceText: String {
    unsafe String(decoding: viewReference.pointer, as: UTF8.self)
  }

  /// The lines of the last view, by item number.
  package var viewLines: [UInt32: Int64] {
    var lines: [UInt32: Int64] = [:]
    for index in 0..<viewLineCount {
      let line = viewLine(index)
      lines[line.item.ordinal] = line.quantity
    }
    return lines
  }
}

extension Decision {
  /// What was accepted; nil where it was refused.
  package var value: Value? { if case .accepted(let value) = result { value } else { nil } }

  /// Why it was refused; nil where it was accepted.
  package var refusal: Refusal? { if case .refused(let refusal) = result { refusal } else { nil } }
}
