// A balance that was stated during a run and cannot have been, told with the calls around it.

/// What was wrong with a balance that was read during the run.
package struct SampleFault: Sendable {
  let sku: UInt32
  /// When the balance was asked for, and when it came, by the generator's monotonic clock.
  let sentNanoseconds: Int64
  let answeredNanoseconds: Int64
  /// The numbers, and between which they can have been.
  package let text: String

  package init(sku: UInt32, sentNanoseconds: Int64, answeredNanoseconds: Int64, text: String) {
    self.sku = sku
    self.sentNanoseconds = sentNanoseconds
    self.answeredNanoseconds = answeredNanoseconds
    self.text = text
  }
}

extension History {
  /// Calls this long before or after a sample are told with it.
  private static let aroundNanoseconds: Int64 = 10_000_000
  private static let callsMost = 1_000

  /// Takes down a fault that was found on the way, with the calls for its SKU around it.
  package mutating func note(_ fault: SampleFault) {
    let describe = CallDescriber(
      startNanoseconds: startNanoseconds, startedUnixNanoseconds: startedUnixNanoseconds)
    let from = fault.sentNanoseconds.minus(History.aroundNanoseconds)
    let to = fault.answeredNanoseconds.plus(History.aroundNanoseconds)
    var calls: [CallLine] = []
    books.forEachLedger { ledger in
      for operation in 0..<ledger.count where calls.count < History.callsMost {
        let units = ledger.everyLine(of: operation).reduce(Int64(0)) { sum, index in
          let line = ledger.line(at: index)
          return line.sku == fault.sku ? sum + Int64(line.quantity) : sum
        }
        if units == 0 { continue }
        ledger.forEachAttempt(of: operation) { attempt in
          if attempt.sentNanoseconds <= to, attempt.answeredNanoseconds >= from {
            calls.append(describe.line(attempt, units: units, ledger))
          }
        }
      }
    }
    calls.sort { $0.sentNanoseconds < $1.sentNanoseconds }
    let read = CallLine.milliseconds(fault.sentNanoseconds.minus(startNanoseconds))
    violations.append(
      Violation(
        .outOfBounds,
        "SKU \(names.name(Int(fault.sku))), read at \(read) ms: the server stated \(fault.text)",
        calls: calls))
  }
}
