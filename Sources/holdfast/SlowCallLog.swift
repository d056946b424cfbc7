// Lines of the log about calls that took --slow-call and longer.
internal import GRPC
internal import Logging
internal import ReservationService
internal import Server

enum SlowCallLog {
  /// Tells what the loops have noted since the last call: ten lines at most, and one that counts the others.
  // Not put into the loop that calls it, nor what it calls into its own: the optimizer takes minutes for large loops.
  @inline(never)
  static func tell(_ slowCalls: SlowCalls, _ logger: Logger) {
    let (calls, suppressed) = slowCalls.take()
    for call in calls { logger.warning("slow call", metadata: metadata(call)) }
    if suppressed > 0 {
      logger.warning(
        "more slow calls, which are not told one by one",
        metadata: ["calls": .stringConvertible(suppressed)])
    }
  }

  @inline(never)
  private static func metadata(_ call: SlowCall) -> Logger.Metadata {
    let method =
      HoldfastHandler.methods.indices.contains(call.method)
      ? HoldfastHandler.methods[call.method].path : "unknown"
    let rest = max(0, call.total - call.queue - call.decide - call.durability)
    var metadata: Logger.Metadata = [
      "method": "\(method)",
      "code": "\(StatusCode(rawValue: call.code).map { "\($0)" } ?? "\(call.code)")",
      "milliseconds": milliseconds(call.total),
      "queue-ms": milliseconds(call.queue),
      "decide-ms": milliseconds(call.decide),
      "durability-ms": milliseconds(call.durability),
      "send-ms": milliseconds(rest),
    ]
    let subject = shown(call.subject)
    if !subject.isEmpty {
      metadata[call.subjectKind == .sku ? "sku" : "reservation"] = "\(subject)"
    }
    let caller = call.principal.withName { name in shown(name.indices.map { name[$0] }) }
    if !caller.isEmpty { metadata["caller"] = "\(caller)" }
    if call.traceParent.isPresent { metadata["traceparent"] = "\(call.traceParent.text)" }
    return metadata
  }

  private static func milliseconds(_ nanoseconds: Int64) -> Logger.MetadataValue {
    .stringConvertible((Double(nanoseconds) / 1000).rounded() / 1000)
  }

  /// Bytes of a client as text that cannot be taken for anything else in a line: letters, digits, marks and
  /// signs as they are; blanks, what controls a terminal or turns text around, backslashes, and what is no UTF-8, as
  /// numbers.
  @inline(never)
  static func shown(_ bytes: [UInt8]) -> String {
    guard let text = String(validating: bytes, as: UTF8.self) else {
      return bytes.reduce(into: "") { $0 += byte($1) }
    }
    return text.unicodeScalars.reduce(into: "") { line, scalar in
      switch scalar.properties.generalCategory {
      case .uppercaseLetter, .lowercaseLetter, .titlecaseLetter, .otherLetter, .modifierLetter,
        .decimalNumber, .letterNumber, .otherNumber, .nonspacingMark, .spacingMark,
        .connectorPunctuation, .dashPunctuation, .openPunctuation, .closePunctuation,
        .initialPunctuation, .finalPunctuation, .otherPunctuation, .mathSymbol, .currencySymbol,
        .modifierSymbol, .otherSymbol:
        if scalar != "\\" && scalar != "\"" {
          line.unicodeScalars.append(scalar)
        } else {
          fallthrough
        }
      default: line += "\\u{\(String(scalar.value, radix: 16))}"
      }
    }
  }

  private static func byte(_ byte: UInt8) -> String {
    let isPlain = (0x21...0x7e).contains(byte) && byte != 0x5c && byte != 0x22
    if isPlain { return String(UnicodeScalar(byte)) }
    return "\\x" + (byte < 16 ? "0" : "") + String(byte, radix: 16)
  }
}
