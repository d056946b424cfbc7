// Holds what the feed has said of each operation against the ledgers: every acknowledged decision is in it
// once, with the values that were answered, and nothing else is. Calls of unknown outcome may be in it, once.
//
// The order is looked at too: where one call was answered before another was sent, its number is lower.

extension FeedCheck {
  /// How much longer than its clock allows a hold may be without the event of its end: a second for the
  /// server to get to it, by the API, and some for a machine that does other things.
  private static let expiryNanoseconds: Int64 = 5_000_000_000

  /// A decision whose call and number are both known.
  private struct Placed: BitwiseCopyable {
    let lsn: UInt64
    let sentNanoseconds: Int64
    let answeredNanoseconds: Int64
    let operation: UInt32
    let ledger: UInt16
  }

  /// The ledgers in the course of a comparison.
  private struct Comparison {
    let clock: ClockOffset
    let describe: CallDescriber
    /// What was decided before this instant by the generator's clock is in the feed, or never will be.
    let endNanoseconds: Int64
    var placed: [Placed] = []
  }

  /// Compares; afterwards `violations` are all that there are.
  /// - Parameter endNanoseconds: when the mark that ends the watch was decided, at the earliest, by the
  ///   generator's clock.
  package func compare(_ history: borrowing History, endNanoseconds: Int64) {
    let offset = HistoryCheck.clockOffset(history.startNanoseconds, history.startedUnixNanoseconds)
    var comparison = Comparison(
      clock: HistoryCheck.clock(of: history.books, generatorsOwn: offset),
      describe: CallDescriber(
        startNanoseconds: history.startNanoseconds,
        startedUnixNanoseconds: history.startedUnixNanoseconds),
      endNanoseconds: endNanoseconds)
    for number in 0..<history.books.count {
      history.books.withLedger(number) { ledger in
        guard ledger.worker < notes.count else { return }
        for operation in 0..<ledger.count {
          compare(OperationReference(ledger: number, operation: operation), ledger, &comparison)
        }
        noteUnknown(behind: ledger)
      }
    }
    checkOrder(&comparison, history.books)
  }

  /// What the feed tells of operations that the worker never opened.
  private func noteUnknown(behind ledger: borrowing Ledger) {
    let told = notes[ledger.worker]
    for operation in ledger.count..<max(ledger.count, told.count) where !told[operation].isEmpty {
      let key = ledger.key(of: operation)
      note(.feedUnknown) { Violation(.feedUnknown, "key \(key): no call had it") }
    }
  }

  private func compare(
    _ reference: OperationReference, _ ledger: borrowing Ledger, _ comparison: inout Comparison
  ) {
    let operation = reference.operation
    let told = notes[ledger.worker][operation]
    switch ledger[operation].kind {
    case .read:
      if !told.isEmpty {
        note(.feedUnknown, reference, ledger, comparison, "a read is no decision")
      }
    case .restock, .ship, .uncommit, .count:
      let call = CallSummary(ledger, operation, .adjustStock)
      compareAdjusted(call, told, reference, ledger, comparison)
      place(call, told.lsn, reference, &comparison)
    case .reserve:
      let summary = ReserveSummary(ledger, operation)
      require(told.adjusted, 0, "AdjustStock", reference, ledger, comparison)
      compareReserve(summary, told, reference, ledger, comparison)
      compareReplace(summary.replace, told, reference, ledger, comparison)
      compareEnds(summary, told, reference, ledger, comparison)
      compareExtends(summary, told, reference, ledger, comparison)
      place(summary.reserve, told.lsn, reference, &comparison)
      place(summary.replace, told.replaceLSN, reference, &comparison)
      for call in [summary.confirm, summary.release] where call.isAccepted {
        place(call, told.endLSN, reference, &comparison)
      }
    }
  }

  // MARK: One operation

  private func compareAdjusted(
    _ call: CallSummary, _ told: FeedNote, _ reference: OperationReference,
    _ ledger: borrowing Ledger, _ comparison: Comparison
  ) {
    let operation = reference.operation
    let units = Int64(ledger.line(of: operation).quantity)
    let (onHand, committed): (Int64, Int64) =
      switch ledger[operation].kind {
      case .ship: (-units, -units)
      case .uncommit: (0, -units)
      case .count: (ledger.counted(operation).minus(ledger[operation].expectedOnHand), 0)
      case .restock, .reserve, .read: (units, 0)
      }
    require(told.held, 0, "Reserve", reference, ledger, comparison)
    if call.decision == .refused, Method.adjustStock.keeps(call.reason) {
      require(told.adjusted, 0, "ADJUSTED", reference, ledger, comparison)
      counts.compared += 1
      requireOnce(told.refused, "REFUSED", reference, ledger, comparison)
    } else {
      require(call, told.adjusted, "ADJUSTED", reference, ledger, comparison)
      // Of unknown outcome it may have been the one or the other.
      if !call.mayHaveActed {
        require(told.refused, 0, "a refusal", reference, ledger, comparison)
      } else if Int(told.adjusted) + Int(told.refused) > 1 {
        note(.feedRepeated, reference, ledger, comparison, "it was decided more than once")
      }
    }
    if told.adjusted > 0, told.value != onHand || told.expiresNanoseconds != committed {
      note(
        .feedWrongEvent, reference, ledger, comparison,
        "ADJUSTED number \(told.lsn) changes on hand by \(told.value), committed by "
          + "\(told.expiresNanoseconds)")
    }
  }

  private func compareReplace(
    _ call: CallSummary, _ told: FeedNote, _ reference: OperationReference,
    _ ledger: borrowing Ledger, _ comparison: Comparison
  ) {
    if call.sent == 0, told.replaced == 0, told.refusedReplaces == 0 { return }
    switch call.decision {
    case .refused where Method.replace.keeps(call.reason):
      require(told.replaced, 0, "REPLACED", reference, ledger, comparison)
      counts.compared += 1
      requireOnce(told.refusedReplaces, "REFUSED of Replace", reference, ledger, comparison)
    case .unknown where call.mayHaveActed:
      if Int(told.replaced) + Int(told.refusedReplaces) > 1 {
        note(.feedRepeated, reference, ledger, comparison, "Replace was decided more than once")
      }
    case .accepted, .refused, .unknown:
      require(call, told.replaced, "REPLACED", reference, ledger, comparison)
      require(told.refusedReplaces, 0, "a refusal", reference, ledger, comparison)
    }
    let asked = FeedFingerprint.lines(ledger.merged(ledger.newCart(of: reference.operation)))
    if told.replaced > 0, told.newLines != asked {
      note(
        .feedWrongEvent, reference, ledger, comparison,
        "the lines of number \(told.replaceLSN) are not those that were asked for")
    }
  }

  /// Whether lines that were told are what an operation asked for, or says that it holds. Where nobody knows what a
  /// Reserve was answered it may hold any alternative, and of one that is content with less any number of units.
  private func areRight(
    _ lines: UInt32, _ summary: ReserveSummary, _ operation: Int, _ isHeld: Bool,
    _ ledger: borrowing Ledger
  ) -> Bool {
    guard isHeld else {
      return lines == FeedFingerprint.lines(ledger.merged(ledger.cart(of: operation)))
    }
    if summary.reserve.isAccepted {
      return lines == FeedFingerprint.lines(ledger.merged(ledger.heldLines(of: operation)))
    }
    return (0...Int(ledger[operation].alternativeCount)).contains { alternative in
      let cart = ledger.cart(of: operation, alternative: alternative)
      return cart.contains { ledger.line(at: $0).minimum > 0 }
        || lines == FeedFingerprint.lines(ledger.merged(cart))
    }
  }

  private func compareReserve(
    _ summary: ReserveSummary, _ told: FeedNote, _ reference: OperationReference,
    _ ledger: borrowing Ledger, _ comparison: Comparison
  ) {
    let call = summary.reserve
    let isRecorded =
      call.reason == .insufficientStock || call.reason == .itemNotFound
      || call.reason == .limitExceeded
    switch call.decision {
    case .accepted:
      require(call, told.held, "HELD", reference, ledger, comparison)
      require(told.refused, 0, "a refusal", reference, ledger, comparison)
    case .refused where isRecorded:
      require(told.held, 0, "a hold", reference, ledger, comparison)
      counts.compared += 1
      requireOnce(told.refused, "REFUSED", reference, ledger, comparison)
    case .refused: require(told.held, told.refused, "Reserve", reference, ledger, comparison)
    case .unknown where call.mayHaveActed:
      if Int(told.held) + Int(told.refused) > 1 {
        note(.feedRepeated, reference, ledger, comparison, "Reserve was decided more than once")
      }
    case .unknown: require(told.held, told.refused, "Reserve", reference, ledger, comparison)
    }
    guard told.held > 0 || told.refused > 0 else { return }
    if !areRight(told.lines, summary, reference.operation, told.held > 0, ledger) {
      note(
        .feedWrongEvent, reference, ledger, comparison,
        "the lines of number \(told.lsn) are not those that were asked for")
    }
    guard call.isAccepted, told.held > 0 else { return }
    if told.id != ledger.acceptedID(of: reference.operation).fingerprint {
      note(
        .feedWrongEvent, reference, ledger, comparison,
        "HELD number \(told.lsn) has another reservation than was answered")
    }
    if told.value != summary.expiresNanoseconds {
      note(
        .feedWrongEvent, reference, ledger, comparison,
        "HELD number \(told.lsn) has another expires_at than was answered")
    }
  }

  private func compareEnds(
    _ summary: ReserveSummary, _ told: FeedNote, _ reference: OperationReference,
    _ ledger: borrowing Ledger, _ comparison: Comparison
  ) {
    require(summary.confirm, told.confirmed, "CONFIRMED", reference, ledger, comparison)
    require(summary.release, told.released, "RELEASED", reference, ledger, comparison)
    let ends = Int(told.confirmed) + Int(told.released) + Int(told.expired)
    if ends > 1 {
      note(.feedRepeated, reference, ledger, comparison, "its hold ends \(ends) times")
    }
    guard told.held > 0 else { return }
    let due = comparison.clock.local(
      earliest: told.expiresNanoseconds, latest: told.expiresNanoseconds)
    if told.expired > 0 {
      let came = beganNanoseconds.plus((Int64(told.expiredMilliseconds) + 1) * 1_000_000)
      if came < due.earliest {
        note(
          .feedWrongEvent, reference, ledger, comparison,
          "EXPIRED number \(told.endLSN) came \(due.earliest.minus(came) / 1_000_000) ms before "
            + "the hold can have been due")
      }
    } else if ends == 0, due.latest.plus(Self.expiryNanoseconds) < comparison.endNanoseconds {
      note(.feedMissing, reference, ledger, comparison, "its hold fell due, and no event ends it")
    }
  }

  private func compareExtends(
    _ summary: ReserveSummary, _ told: FeedNote, _ reference: OperationReference,
    _ ledger: borrowing Ledger, _ comparison: Comparison
  ) {
    if summary.extend.sent == 0, told.extended == 0 { return }
    // An Extend that changes nothing is answered as a repetition, and is no decision.
    var accepted = 0
    var extensions: UInt64 = 0
    ledger.forEachAttempt(of: reference.operation) { attempt in
      guard attempt.method == .extend, attempt.isAccepted, !attempt.isReplayed else { return }
      accepted += 1
      extensions &+= FeedFingerprint.expiry(attempt.expiresNanoseconds)
    }
    counts.compared += accepted
    let seen = Int(told.extended)
    let isFull = told.extended == .max
    if seen < accepted, !isFull {
      note(
        .feedMissing, reference, ledger, comparison,
        "\(seen) EXTENDED, where \(accepted) were acknowledged")
    } else if seen > accepted + summary.extend.unknown {
      note(
        .feedUnknown, reference, ledger, comparison,
        "\(seen) EXTENDED, where \(accepted + summary.extend.unknown) can have been")
    } else if seen == accepted, !isFull, extensions != told.extensions {
      note(
        .feedWrongEvent, reference, ledger, comparison,
        "EXTENDED has another expires_at than was answered")
    }
  }

  // MARK: Counts

  /// A call and how often the feed tells of it.
  private func require(
    _ call: CallSummary, _ told: UInt8, _ what: String, _ reference: OperationReference,
    _ ledger: borrowing Ledger, _ comparison: Comparison
  ) {
    if call.isAccepted {
      counts.compared += 1
      requireOnce(told, what, reference, ledger, comparison)
    } else if !call.mayHaveActed {
      require(told, 0, what, reference, ledger, comparison)
    } else if told > 1 {
      note(.feedRepeated, reference, ledger, comparison, "\(what) is told \(told) times")
    }
  }

  private func requireOnce(
    _ told: UInt8, _ what: String, _ reference: OperationReference, _ ledger: borrowing Ledger,
    _ comparison: Comparison
  ) {
    if told == 0 {
      note(.feedMissing, reference, ledger, comparison, "\(what) is missing")
    } else if told > 1 {
      note(.feedRepeated, reference, ledger, comparison, "\(what) is told \(told) times")
    }
  }

  /// Neither may be told.
  private func require(
    _ first: UInt8, _ second: UInt8, _ what: String, _ reference: OperationReference,
    _ ledger: borrowing Ledger, _ comparison: Comparison
  ) {
    if first > 0 || second > 0 {
      note(
        .feedUnknown, reference, ledger, comparison, "\(what) is told, and was not decided")
    }
  }

  private func note(
    _ kind: Violation.Kind, _ reference: OperationReference, _ ledger: borrowing Ledger,
    _ comparison: Comparison, _ text: String
  ) {
    guard hasRoom(kind) else { return }
    let operation = reference.operation
    let skus = Set(ledger.cart(of: operation).map { ledger.line(at: $0).sku }).sorted()
    let units = ledger.cart(of: operation).reduce(Int64(0)) {
      $0 + Int64(ledger.line(at: $1).quantity)
    }
    var calls: [CallLine] = []
    ledger.forEachAttempt(of: operation) {
      calls.append(comparison.describe.line($0, units: units, ledger))
    }
    let subject = "SKU \(skus.map { names.name(Int($0)) }.joined(separator: ", "))"
    let key = ledger.key(of: operation)
    note(kind) { Violation(kind, "\(subject), key \(key): \(text)", calls: calls.reversed()) }
  }

  // MARK: The order

  private func place(
    _ call: CallSummary, _ lsn: UInt64, _ reference: OperationReference,
    _ comparison: inout Comparison
  ) {
    guard call.decision != .unknown, lsn > 0 else { return }
    comparison.placed.append(
      Placed(
        lsn: lsn, sentNanoseconds: call.sentNanoseconds,
        answeredNanoseconds: call.answeredNanoseconds,
        operation: UInt32(truncatingIfNeeded: reference.operation),
        ledger: UInt16(truncatingIfNeeded: reference.ledger)))
  }

  private func checkOrder(_ comparison: inout Comparison, _ books: borrowing Books) {
    comparison.placed.sort { $0.lsn < $1.lsn }
    var latest: Placed?
    for placed in comparison.placed {
      // Equal numbers are one event for two calls, which is told elsewhere.
      if let latest, placed.answeredNanoseconds < latest.sentNanoseconds, placed.lsn > latest.lsn {
        var calls: [CallLine] = []
        for each in [placed, latest] {
          let reference = OperationReference(
            ledger: Int(each.ledger), operation: Int(each.operation))
          calls += comparison.describe.all(reference, units: 0, books)
        }
        note(.feedOrder) {
          Violation(
            .feedOrder,
            "number \(placed.lsn) was answered before the call of number \(latest.lsn) was sent",
            calls: calls)
        }
      }
      if placed.sentNanoseconds > latest?.sentNanoseconds ?? .min { latest = placed }
    }
  }
}

extension Ledger {
  /// The lines at `range`, each SKU once.
  func merged(_ range: Range<Int>) -> [FeedLine] {
    var merged: [FeedLine] = []
    for index in range {
      let line = line(at: index)
      if let known = merged.firstIndex(where: { $0.sku == line.sku }) {
        merged[known].units += Int64(line.quantity)
      } else {
        merged.append(FeedLine(sku: line.sku, units: Int64(line.quantity)))
      }
    }
    return merged
  }
}
