// Who may do what: the words of a token file's entries.

/// What a caller may do. Each role may do what those before it may.
package enum Role: UInt8, Comparable, CaseIterable, Sendable, BitwiseCopyable {
  case read = 1
  case reserve
  case stock
  case admin

  /// As a token file spells it.
  package var name: StaticString {
    switch self {
    case .read: "read"
    case .reserve: "reserve"
    case .stock: "stock"
    case .admin: "admin"
    }
  }

  /// nil where no role is spelt so.
  package init?(name: some StringProtocol) {
    guard let role = Self.allCases.first(where: { "\($0.name)" == name }) else { return nil }
    self = role
  }

  package static func < (a: Role, b: Role) -> Bool { a.rawValue < b.rawValue }
}

/// The name of a caller, as the holdfast-caller metadata has it and as journals keep it.
package enum CallerName {
  /// Hashed with every idempotency key, and kept with every decision.
  package static let byteCountMax = 64

  /// Whether it is 0 to 64 bytes of printable ASCII without spaces.
  package static func isValid(_ bytes: Span<UInt8>) -> Bool {
    guard bytes.count <= byteCountMax else { return false }
    for index in bytes.indices where bytes[index] < 0x21 || bytes[index] > 0x7e { return false }
    return true
  }
}

/// What an entry of a token file gives. Plain bytes: it is copied without a reference.
package struct Grant: BitwiseCopyable, Sendable {
  private var nameBytes = InlineArray<64, UInt8>(repeating: 0)
  private var nameCount: UInt8 = 0
  package let role: Role
  /// Confirm, Release and Extend only what was reserved under the same name.
  package let ownHoldsOnly: Bool
  /// Of the token or the certificate's name that it is granted for.
  package let subject: Digest

  /// - Parameter caller: 0 to 64 bytes; a longer one traps.
  package init(caller: Span<UInt8>, role: Role, ownHoldsOnly: Bool, subject: Digest) {
    precondition(caller.count <= CallerName.byteCountMax, "a caller's name is at most 64 bytes")
    for index in caller.indices { nameBytes[index] = caller[index] }
    nameCount = UInt8(caller.count)
    self.role = role
    self.ownHoldsOnly = ownHoldsOnly
    self.subject = subject
  }

  /// Calls `body` with the caller's name.
  package func withCaller<Result>(_ body: (Span<UInt8>) -> Result) -> Result {
    body(nameBytes.span.extracting(0..<Int(nameCount)))
  }
}
