// What a google.rpc.Status says besides its code: the details that a holdfast server sends with every refusal.
package import Bytes
package import GRPC

/// One of several things that were wrong: of a PreconditionFailure (subject) or a BadRequest (field).
package struct Violation: Equatable, Sendable {
  package var subject = ""
  package var description = ""
}

/// ErrorInfo, RetryInfo, PreconditionFailure and BadRequest of a google.rpc.Status.
package struct StatusDetails: Equatable, Sendable {
  /// Of google.rpc.ErrorInfo; empty where there is none.
  package private(set) var reason = ""
  /// Of google.rpc.ErrorInfo, in the order in which it came.
  package private(set) var metadata: [(name: String, value: String)] = []
  package private(set) var violations: [Violation] = []
  /// Of google.rpc.RetryInfo, in nanoseconds; 0: it does not ask for a wait.
  package private(set) var retryNanoseconds: Int64 = 0

  /// No wait is longer: a server that asks for more is not obeyed.
  private static let retrySecondsMax: Int64 = 60
  /// More of them nobody reads, and a server does not send.
  private static let entriesMax = 64

  package init(reason: String = "") { self.reason = reason }

  /// - Safety: nothing of it refers to the bytes. What is no google.rpc.Status leaves it empty, or as far as it came.
  @unsafe package init(_ status: UnsafeRawBufferPointer) {
    var fields = unsafe WireFields(status)
    while let field = fields.next() {
      guard field.number == 3 else { continue }
      var any = unsafe WireFields(field.bytes)
      var type = ""
      while let part = any.next() {
        if part.number == 1 { type = part.text }
        if part.number == 2 { take(part, type) }
      }
    }
  }

  /// The wait that a google.protobuf.Duration asks for; 0 where it is none.
  package static func retryNanoseconds(_ delay: WireFields.Field) -> Int64 {
    guard let delay = Duration64(delay) else { return 0 }
    return max(0, delay.nanoseconds(atMost: retrySecondsMax * 1_000_000_000))
  }

  /// The value of a name in the metadata.
  package func value(_ name: String) -> String? { metadata.first { $0.name == name }?.value }

  package static func == (a: StatusDetails, b: StatusDetails) -> Bool {
    a.reason == b.reason && a.violations == b.violations && a.retryNanoseconds == b.retryNanoseconds
      && a.metadata.elementsEqual(b.metadata) { $0 == $1 }
  }

  private mutating func take(_ value: WireFields.Field, _ type: String) {
    var fields = unsafe WireFields(value.bytes)
    if type.hasSuffix("/google.rpc.ErrorInfo") {
      while let field = fields.next() {
        if field.number == 1 { reason = field.text }
        if field.number == 3, metadata.count < Self.entriesMax { takeEntry(field) }
      }
    } else if type.hasSuffix("/google.rpc.RetryInfo") {
      while let field = fields.next() {
        if field.number == 1 { retryNanoseconds = Self.retryNanoseconds(field) }
      }
    } else if type.hasSuffix("/google.rpc.PreconditionFailure") {
      while violations.count < Self.entriesMax, let field = fields.next() {
        if field.number == 1 { takeViolation(field, subject: 2, description: 3) }
      }
    } else if type.hasSuffix("/google.rpc.BadRequest") {
      while violations.count < Self.entriesMax, let field = fields.next() {
        if field.number == 1 { takeViolation(field, subject: 1, description: 2) }
      }
    }
  }

  private mutating func takeEntry(_ entry: WireFields.Field) {
    var fields = unsafe WireFields(entry.bytes)
    var (name, value) = ("", "")
    while let field = fields.next() {
      if field.number == 1 { name = field.text }
      if field.number == 2 { value = field.text }
    }
    metadata.append((name, value))
  }

  private mutating func takeViolation(
    _ violation: WireFields.Field, subject: Int, description: Int
  ) {
    var fields = unsafe WireFields(violation.bytes)
    var found = Violation()
    while let field = fields.next() {
      if field.number == subject { found.subject = field.text }
      if field.number == description { found.description = field.text }
    }
    violations.append(found)
  }
}

extension StatusCode {
  private static let names = [
    "OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND",
    "ALREADY_EXISTS", "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED",
    "OUT_OF_RANGE", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED",
  ]

  /// As gRPC's documents write it.
  package var name: String { Self.names[rawValue] }
}
