// Who may call what. Asked once for each header block: what comes out is kept with the block, so that
// the calls that repeat it cost nothing.
package import Access
internal import GRPC

/// The bits of `Principal.permissions`.
struct Permissions: BitwiseCopyable {
  let rawValue: UInt32

  private static let roleMask: UInt32 = 0xff
  private static let ownHoldsOnlyBit: UInt32 = 1 << 8

  init(rawValue: UInt32) { self.rawValue = rawValue }

  init(role: Role, ownHoldsOnly: Bool) {
    rawValue = UInt32(role.rawValue) | (ownHoldsOnly ? Self.ownHoldsOnlyBit : 0)
  }

  /// Nobody was asked for: a method that needs no role.
  static var none: Permissions { Permissions(rawValue: 0) }

  /// Access is off: whoever reaches the port may do everything.
  static var all: Permissions { Permissions(role: .admin, ownHoldsOnly: false) }

  var role: Role? { Role(rawValue: UInt8(truncatingIfNeeded: rawValue & Self.roleMask)) }

  /// Watch shows who called, and with which key.
  var seesCallers: Bool { role.map { $0 >= .stock } ?? false }

  /// Confirm, Release, Extend and Replace only what was reserved under the same name.
  var ownHoldsOnly: Bool { rawValue & Self.ownHoldsOnlyBit != 0 }
}

extension HoldfastHandler.Method {
  /// The least role that may call it; nil: anybody may.
  ///
  /// - Health needs none: orchestrators and load balancers probe without a secret, and what they learn, that
  ///   the server serves, everybody learns who connects. Their credentials are not even looked at.
  /// - Reflection needs `read`: what it tells stands in proto/, but a server that was closed on purpose
  ///   need not name its methods to a scanner.
  /// - GetReservation and ListReservations need `read`, with own-holds-only too: that is about what changes.
  ///   Who may read sees every reservation and its id; an id alone ends no other caller's hold.
  /// - Watch needs `read`: it tells what reads tell. Who called, and with which keys, it shows to `stock` and
  ///   `admin` alone (WatchCalls.swift).
  /// - Backup needs `admin`: it gives all that there is, the store's secret included.
  var leastRole: Role? {
    switch self {
    case .getReservation, .listReservations, .getStock, .batchGetStock, .listStock: .read
    case .watch, .reflection, .reflectionAlpha: .read
    case .reserve, .batchReserve, .reserveStream, .confirm, .release, .extend, .replace: .reserve
    case .adjustStock, .batchAdjustStock, .importStock, .removeItem: .stock
    case .backup: .admin
    case .healthCheck, .healthWatch: nil
    }
  }
}

/// Why a call is refused before its message is looked at.
enum AuthorizationFailure: Error, Equatable, BitwiseCopyable {
  /// Neither a token nor a certificate.
  case credentialsMissing
  /// The authorization metadata is not `Bearer`, one space and a token.
  case tokenMalformed
  case tokenUnknown
  case tokenExpired
  /// The certificate is good, but nobody's.
  case certificateUnknown
  case certificateExpired
  /// holdfast-caller is not what a caller can be called.
  case callerMalformed
  /// holdfast-caller names somebody else.
  case callerMismatch
  /// The caller's role is below this one.
  case roleRequired(Role)

  /// The gRPC status.
  var code: StatusCode {
    switch self {
    case .credentialsMissing, .tokenMalformed, .tokenUnknown, .tokenExpired, .certificateUnknown,
      .certificateExpired:
      .unauthenticated
    case .callerMalformed: .invalidArgument
    case .callerMismatch, .roleRequired: .permissionDenied
    }
  }

  /// The reason in ErrorInfo, as proto/holdfast/v1/reservation.proto lists them.
  var reason: StaticString {
    switch self {
    case .credentialsMissing: "CREDENTIALS_MISSING"
    case .tokenMalformed, .tokenUnknown: "TOKEN_INVALID"
    case .tokenExpired: "TOKEN_EXPIRED"
    case .certificateUnknown: "CERTIFICATE_UNKNOWN"
    case .certificateExpired: "CERTIFICATE_EXPIRED"
    case .callerMalformed: "INVALID_FIELD"
    case .callerMismatch: "CALLER_MISMATCH"
    case .roleRequired: "ROLE_REQUIRED"
    }
  }

  /// The grpc-message. Never a word of what was sent.
  var text: StaticString {
    switch self {
    case .credentialsMissing: "the call has no token: send authorization: Bearer TOKEN"
    case .tokenMalformed: "the authorization metadata is not Bearer, one space and a token"
    case .tokenUnknown: "unknown token"
    case .tokenExpired: "the token has expired"
    case .certificateUnknown: "the client certificate is nobody's, and the call has no token"
    case .certificateExpired: "the client certificate's entry has expired"
    case .callerMalformed: FieldRules.callerRule
    case .callerMismatch: "holdfast-caller is not the caller that the credentials name"
    case .roleRequired: "the caller's role may not call this method"
    }
  }
}

/// Tells who calls, for one loop. Allocates nothing and counts no references, but where the token file
/// was read again.
@safe package final class Authorization {
  /// nil: access is off.
  private let file: AccessListFile?
  /// The same file, for a look without reference counting.
  private let reference: Unmanaged<AccessListFile>?
  private var list: AccessList?
  /// Rises whenever what was said of callers before holds no longer.
  private(set) var generation: UInt64 = 0

  /// - Parameter file: nil: whoever reaches the port may do everything, under any name.
  package init(file: AccessListFile?) {
    self.file = file
    unsafe reference = file.map { unsafe Unmanaged.passUnretained($0) }
    _ = refresh()
  }

  /// For a list that never changes.
  init(list: AccessList) {
    file = nil
    unsafe reference = nil
    self.list = list
  }

  /// Whether callers must say who they are.
  package var isOn: Bool { list != nil }

  /// To be called as an event-loop iteration begins: one atomic load. True where the token file was read
  /// again or an entry has expired: every principal that was kept must be asked for again.
  package func refresh() -> Bool {
    guard let reference = unsafe reference else { return false }
    // The number first: a list that comes in between is asked for once more. `file` keeps it alive.
    let current = unsafe reference._withUnsafeGuaranteedRef { $0.generation }
    if current == generation { return false }
    generation = current
    list = file?.list
    return true
  }

  /// Who calls, and whether it may call `method`.
  ///
  /// With access off, the principal's name is what holdfast-caller says. With access on it is the
  /// credentials': a token's, else, where the call has none, the client certificate's. A token that is not
  /// good is not made good by a certificate. holdfast-caller may be left out or empty, and says nothing
  /// else than that name.
  /// - Parameters:
  ///   - authorization: the metadata of that name; empty without it.
  ///   - caller: holdfast-caller; empty without it.
  ///   - certificate: `uri:`, `dns:` or `cn:` and the client certificate's verified name; empty without one.
  ///   - now: nanoseconds since the Unix epoch.
  func principal(
    calling method: HoldfastHandler.Method, authorization: Span<UInt8>, caller: Span<UInt8>,
    certificate: Span<UInt8>, now: Int64
  ) throws(AuthorizationFailure) -> Principal {
    guard let list else {
      guard CallerName.isValid(caller) else { throw .callerMalformed }
      return Principal(name: caller, permissions: Permissions.all.rawValue)
    }
    guard let leastRole = method.leastRole else {
      return Principal(permissions: Permissions.none.rawValue)
    }
    let (grant, kind) = try Self.grant(list, authorization, certificate, now)
    guard CallerName.isValid(caller) else { throw .callerMalformed }
    guard caller.isEmpty || Self.isCaller(grant, caller) else { throw .callerMismatch }
    return try Self.principal(grant, kind, leastRole)
  }

  /// The token file has changed, or an entry has expired: who calls now, where it was `principal` before?
  /// A credential that names another caller now is no longer that caller's.
  func renew(
    _ principal: Principal, calling method: HoldfastHandler.Method, now: Int64
  ) throws(AuthorizationFailure) -> Principal {
    guard let list, let leastRole = method.leastRole,
      let kind = CredentialKind(rawValue: principal.credential.kind)
    else { return principal }
    let digest = Digest(words: principal.credential.words)
    let grant: Grant
    switch kind {
    case .token:
      grant = try Self.token(list.find(tokenDigest: digest, now: now))
      guard principal.withName({ Self.isCaller(grant, $0) }) else { throw .tokenUnknown }
    case .certificate:
      grant = try Self.certificate(list.find(certificateDigest: digest, now: now))
      guard principal.withName({ Self.isCaller(grant, $0) }) else { throw .certificateUnknown }
    }
    return try Self.principal(grant, kind, leastRole)
  }

  /// What `Principal.credential` is a digest of; without access it is of nothing.
  private enum CredentialKind: UInt8 {
    case token = 1
    case certificate = 2
  }

  private static func principal(
    _ grant: Grant, _ kind: CredentialKind, _ leastRole: Role
  ) throws(AuthorizationFailure) -> Principal {
    guard grant.role >= leastRole else { throw .roleRequired(leastRole) }
    let permissions = Permissions(role: grant.role, ownHoldsOnly: grant.ownHoldsOnly)
    var principal = grant.withCaller { Principal(name: $0, permissions: permissions.rawValue) }
    principal.credential = Credential(kind: kind.rawValue, words: grant.subject.words)
    return principal
  }

  private static func grant(
    _ list: AccessList, _ authorization: Span<UInt8>, _ certificate: Span<UInt8>, _ now: Int64
  ) throws(AuthorizationFailure) -> (Grant, CredentialKind) {
    if !authorization.isEmpty {
      guard let start = tokenStart(authorization) else { throw .tokenMalformed }
      let text = authorization.extracting(start..<authorization.count)
      return (try token(list.find(token: text, now: now)), .token)
    }
    guard !certificate.isEmpty else { throw .credentialsMissing }
    return (try Self.certificate(list.find(certificate: certificate, now: now)), .certificate)
  }

  private static func token(
    _ finding: AccessList.Finding
  ) throws(AuthorizationFailure) -> Grant {
    switch finding {
    case .granted(let grant): return grant
    case .expired: throw .tokenExpired
    case .unknown: throw .tokenUnknown
    }
  }

  private static func certificate(
    _ finding: AccessList.Finding
  ) throws(AuthorizationFailure) -> Grant {
    switch finding {
    case .granted(let grant): return grant
    case .expired: throw .certificateExpired
    case .unknown: throw .certificateUnknown
    }
  }

  /// Where the token begins in `Bearer TOKEN` (RFC 6750 section 2.1, RFC 9110 section 11.1: the scheme's
  /// case does not count); nil where it is anything else.
  private static func tokenStart(_ authorization: Span<UInt8>) -> Int? {
    let scheme: InlineArray<7, UInt8> = [0x62, 0x65, 0x61, 0x72, 0x65, 0x72, 0x20]
    guard authorization.count > scheme.count else { return nil }
    for index in 0..<6 where authorization[index] | 0x20 != scheme[index] { return nil }
    guard authorization[6] == scheme[6] else { return nil }
    for index in 7..<authorization.count
    where authorization[index] < 0x21 || authorization[index] > 0x7e { return nil }
    return 7
  }

  private static func isCaller(_ grant: Grant, _ caller: Span<UInt8>) -> Bool {
    grant.withCaller { name in
      guard name.count == caller.count else { return false }
      // Who calls knows its own name: it is no secret.
      for index in name.indices where name[index] != caller[index] { return false }
      return true
    }
  }
}

// MARK: - Header blocks

extension Authorization {
  /// Who makes calls of `method` with these header fields; nil where none is to be taken, and `response` says
  /// why.
  func principal(
    of headers: RequestHeaders, calling method: HoldfastHandler.Method, now: Int64,
    _ errors: ErrorReplies, _ response: Response
  ) -> Principal? {
    // Two of them could mean two callers: whoever reads the first and whoever reads the last disagree.
    for (index, name) in HoldfastHandler.metadata.enumerated()
    where headers.isMetadataRepeated(index) {
      errors.badRequest([FieldViolation(name, "at most once")], response: response)
      return nil
    }
    do throws(AuthorizationFailure) {
      return try principal(of: headers, calling: method, now: now)
    } catch {
      errors.unauthorized(error, response: response)
      return nil
    }
  }

  private func principal(
    of headers: RequestHeaders, calling method: HoldfastHandler.Method, now: Int64
  ) throws(AuthorizationFailure) -> Principal {
    let certificate = headers.certificate ?? CertificateName()
    let result = headers.withMetadata(0) { caller in
      headers.withMetadata(1) { token in
        certificate.withName { certificate -> Result<Principal, AuthorizationFailure> in
          Result { () throws(AuthorizationFailure) in
            try principal(
              calling: method, authorization: token, caller: caller, certificate: certificate,
              now: now)
          }
        }
      }
    }
    return try result.get()
  }
}
