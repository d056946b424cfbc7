// Who may call what, and what everybody else is told.
import Access
import GRPC
import StockStore
import Testing

@testable import ReservationService

@Suite struct AuthorizationTests {
  private typealias Method = HoldfastHandler.Method

  private static let limits = AccessLimits(
    entriesMax: 100, fileBytesMax: 1 << 16, tokenBytesMax: 8192)
  private static let longToken = String(repeating: "t", count: 8192)
  private static let day: Int64 = 86_400 * second

  private static func authorization() throws -> Authorization {
    func token(_ text: String, _ words: String) -> String {
      "token sha256:\(Digest(of: Array(text.utf8).span).hexadecimal) \(words)\n"
    }
    let text =
      token("reader", "caller=reports role=read") + token("holder", "caller=shop role=reserve")
      + token("owner", "caller=shop role=reserve own-holds-only")
      + token("stocker", "caller=hall role=stock") + token("boss", "caller=boss role=admin")
      + token("nameless", "role=reserve")
      + token("old", "caller=shop role=admin expires=1970-01-02")
      + token(longToken, "caller=long role=stock")
      + "cert uri:spiffe://shop/a caller=cert role=stock\n"
      + "cert cn:old caller=cert role=stock expires=1970-01-02\n"
    return try authorization(file: text)
  }

  /// Of a file whose tokens stand for themselves.
  private static func authorization(_ words: String) throws -> Authorization {
    guard words.hasPrefix("token ") else { return try authorization(file: words + "\n") }
    let parts = words.split(separator: " ", maxSplits: 2)
    let digest = Digest(of: Array(parts[1].utf8).span).hexadecimal
    return try authorization(file: "token sha256:\(digest) \(parts[2])\n")
  }

  private static func authorization(file text: String) throws -> Authorization {
    Authorization(
      list: AccessList(try TokenFile.parse(Array(text.utf8), limits: limits), limits: limits))
  }

  /// `NAME ROLE`, or the reason of the failure.
  private func ask(
    _ authorization: Authorization, _ method: HoldfastHandler.Method = .getStock,
    _ header: String = "", caller: String = "", certificate: String = "", now: Int64 = 0
  ) -> String {
    Self.text { () throws(AuthorizationFailure) in
      try authorization.principal(
        calling: method, authorization: Array(header.utf8).span, caller: Array(caller.utf8).span,
        certificate: Array(certificate.utf8).span, now: now)
    }
  }

  private static func text(_ make: () throws(AuthorizationFailure) -> Principal) -> String {
    do throws(AuthorizationFailure) {
      let principal = try make()
      let name = principal.withName { name in
        String(decoding: name.indices.map { name[$0] }, as: UTF8.self)
      }
      let permissions = Permissions(rawValue: principal.permissions)
      let role = permissions.role.map { "\($0.name)" } ?? "none"
      return "\(name) \(role)" + (permissions.ownHoldsOnly ? " own" : "")
    } catch {
      return "\(error.reason)"
    }
  }

  @Test(arguments: [
    ("Bearer reader", "", "", "reports read"), ("bearer holder", "", "", "shop reserve"),
    ("BEARER owner", "shop", "", "shop reserve own"), ("bEaReR boss", "boss", "", "boss admin"),
    ("Bearer nameless", "", "", " reserve"), ("Bearer \(longToken)", "", "", "long stock"),
    ("", "", "uri:spiffe://shop/a", "cert stock"),
    ("", "cert", "uri:spiffe://shop/a", "cert stock"),
    // The token is what was meant.
    ("Bearer reader", "", "uri:spiffe://shop/a", "reports read"),
    ("Bearer nobody", "", "uri:spiffe://shop/a", "TOKEN_INVALID"),
    ("", "", "", "CREDENTIALS_MISSING"), ("Bearer nobody", "", "", "TOKEN_INVALID"),
    ("Bearer \(longToken)t", "", "", "TOKEN_INVALID"), ("Bearer old", "", "", "TOKEN_EXPIRED"),
    ("", "", "uri:spiffe://shop/b", "CERTIFICATE_UNKNOWN"),
    ("", "", "cn:old", "CERTIFICATE_EXPIRED"),
    ("Bearer uri:spiffe://shop/a", "", "", "TOKEN_INVALID"),
    ("Bearer", "", "", "TOKEN_INVALID"), ("Bearer ", "", "", "TOKEN_INVALID"),
    ("Bearer  reader", "", "", "TOKEN_INVALID"), ("Bearer\treader", "", "", "TOKEN_INVALID"),
    ("Bearer reader ", "", "", "TOKEN_INVALID"), (" Bearer reader", "", "", "TOKEN_INVALID"),
    ("Bearer reader, Bearer boss", "", "", "TOKEN_INVALID"), ("reader", "", "", "TOKEN_INVALID"),
    ("Basic reader", "", "", "TOKEN_INVALID"), ("Bearer\0reader", "", "", "TOKEN_INVALID"),
    ("Bearer reader", "shop", "", "CALLER_MISMATCH"),
    ("Bearer reader", "report", "", "CALLER_MISMATCH"),
    ("Bearer reader", "Reports", "", "CALLER_MISMATCH"),
    ("Bearer nameless", "x", "", "CALLER_MISMATCH"),
    ("Bearer reader", "a b", "", "INVALID_FIELD"),
    ("Bearer reader", String(repeating: "r", count: 65), "", "INVALID_FIELD"),
    // Who is nobody does not hear more than that.
    ("Bearer nobody", "a b", "", "TOKEN_INVALID"),
  ])
  func credentials(_ header: String, _ caller: String, _ certificate: String, _ told: String) throws
  {
    let authorization = try Self.authorization()
    let seen = ask(
      authorization, .getStock, header, caller: caller, certificate: certificate, now: Self.day)
    #expect(seen == told)
  }

  @Test func everyMethodHasItsLeastRole() throws {
    let authorization = try Self.authorization()
    let least: [HoldfastHandler.Method: Role?] = [
      .reserve: .reserve, .confirm: .reserve, .release: .reserve, .extend: .reserve,
      .batchReserve: .reserve, .reserveStream: .reserve,
      .replace: .reserve,
      .getReservation: .read, .listReservations: .read, .adjustStock: .stock, .getStock: .read,
      .batchAdjustStock: .stock, .importStock: .stock, .removeItem: .stock,
      .batchGetStock: .read, .listStock: .read, .watch: .read, .backup: .admin,
      .healthCheck: nil, .healthWatch: nil,
      .reflection: .read, .reflectionAlpha: .read,
    ]
    let tokens: [(String, Role)] = [
      ("reader", .read), ("holder", .reserve), ("stocker", .stock), ("boss", .admin),
    ]
    for method in HoldfastHandler.Method.allCases {
      let role = try #require(least[method])
      for (token, has) in tokens {
        let seen = ask(authorization, method, "Bearer \(token)")
        guard let role else {
          #expect(seen == " none", "\(method)")
          continue
        }
        #expect((seen == "ROLE_REQUIRED") == (has < role), "\(method) \(has): \(seen)")
      }
      // Nobody gets in but a probe, whatever it sends.
      #expect(ask(authorization, method) == (role == nil ? " none" : "CREDENTIALS_MISSING"))
      #expect(ask(authorization, method, "junk") == (role == nil ? " none" : "TOKEN_INVALID"))
    }
  }

  /// What becomes of an open call when the file has changed.
  @Test(arguments: [
    // The file before and now, the method, what the call began with; what it goes on as.
    ("token A caller=a role=read", "token A caller=a role=read", Method.reflection, "a read"),
    ("token A caller=a role=read", "token A caller=a role=admin", .reflection, "a admin"),
    (
      "token A caller=a role=reserve", "token A caller=a role=reserve own-holds-only", .reserve,
      "a reserve own"
    ),
    ("token A caller=a role=read", "", .reflection, "TOKEN_INVALID"),
    ("token A caller=a role=read", "token B caller=a role=read", .reflection, "TOKEN_INVALID"),
    ("token A caller=a role=read", "token A caller=b role=read", .reflection, "TOKEN_INVALID"),
    (
      "token A caller=a role=read", "token A caller=a role=read expires=1970-01-01", .reflection,
      "TOKEN_EXPIRED"
    ),
    ("token A caller=a role=reserve", "token A caller=a role=read", .reserve, "ROLE_REQUIRED"),
    ("token A caller=a role=stock", "token A caller=a role=reserve", .adjustStock, "ROLE_REQUIRED"),
    ("cert cn:A caller=a role=read", "cert cn:A caller=a role=stock", .reflection, "a stock"),
    ("cert cn:A caller=a role=read", "", .reflection, "CERTIFICATE_UNKNOWN"),
    // A token of the same text does not stand in for a certificate.
    (
      "cert cn:A caller=a role=read", "token cn:A caller=a role=read", .reflection,
      "CERTIFICATE_UNKNOWN"
    ),
    (
      "cert cn:A caller=a role=read", "cert cn:A caller=b role=read", .reflection,
      "CERTIFICATE_UNKNOWN"
    ),
    (
      "cert cn:A caller=a role=read", "cert cn:A caller=a role=read expires=1970-01-01",
      .reflection,
      "CERTIFICATE_EXPIRED"
    ),
    // Nobody was asked for.
    ("token A caller=a role=read", "", .healthWatch, " none"),
  ])
  func openCalls(before: String, now: String, method: HoldfastHandler.Method, told: String) throws {
    let (started, renewed) = (try Self.authorization(before), try Self.authorization(now))
    let isToken = before.hasPrefix("token")
    let principal = try started.principal(
      calling: method, authorization: Array((isToken ? "Bearer A" : "").utf8).span,
      caller: [UInt8]().span, certificate: Array((isToken ? "" : "cn:A").utf8).span, now: 0)
    let seen = Self.text { () throws(AuthorizationFailure) in
      try renewed.renew(principal, calling: method, now: Self.day)
    }
    #expect(seen == told)
  }

  /// Without access nothing changes.
  @Test func openCallsWithoutAccess() {
    let authorization = Authorization(file: nil)
    let seen = Self.text { () throws(AuthorizationFailure) in
      let principal = try authorization.principal(
        calling: .reserve, authorization: [UInt8]().span, caller: Array("me".utf8).span,
        certificate: [UInt8]().span, now: 0)
      return try authorization.renew(principal, calling: .reserve, now: Self.day)
    }
    #expect(seen == "me admin")
  }

  @Test func withoutAccessTheHeaderIsTheName() {
    let authorization = Authorization(file: nil)
    #expect(!authorization.isOn && !authorization.refresh())
    for method in HoldfastHandler.Method.allCases {
      #expect(ask(authorization, method, caller: "anybody") == "anybody admin")
      #expect(ask(authorization, method, "Bearer x") == " admin")
    }
    #expect(ask(authorization, caller: "a b") == "INVALID_FIELD")
    #expect(ask(authorization, caller: String(repeating: "c", count: 64)).hasSuffix("c admin"))
    #expect(ask(authorization, caller: String(repeating: "c", count: 65)) == "INVALID_FIELD")
  }

  @Test(arguments: [
    (AuthorizationFailure.credentialsMissing, StatusCode.unauthenticated, [:]),
    (.tokenMalformed, .unauthenticated, [:]), (.tokenUnknown, .unauthenticated, [:]),
    (.tokenExpired, .unauthenticated, [:]), (.certificateUnknown, .unauthenticated, [:]),
    (.certificateExpired, .unauthenticated, [:]), (.callerMismatch, .permissionDenied, [:]),
    (.roleRequired(.stock), .permissionDenied, ["role": "stock"]),
    (.callerMalformed, .invalidArgument, [:]),
  ])
  func failuresOnTheWire(
    _ failure: AuthorizationFailure, _ code: StatusCode, _ metadata: [String: String]
  ) throws {
    let response = Response()
    ErrorReplies().unauthorized(failure, response: response)
    guard case .failure(let refused) = try Service.answer(in: response) else {
      return #expect(Bool(false), "no failure")
    }
    #expect(refused.code == code && refused.reason == "\(failure.reason)")
    #expect(refused.metadata == metadata && !refused.text.isEmpty)
  }

  @Test func aHandlerWithCallersLetsNobodyInWithoutCredentials() throws {
    let service = Service(authorization: try Self.authorization())
    for name in ["Reserve", "GetStock", "ListReservations", "AdjustStock"] {
      let refused = try service.refused(name, Message())
      #expect(refused.code == .unauthenticated && refused.reason == "CREDENTIALS_MISSING")
    }
    _ = try service.ok("Check", Message())
  }

  @Test func anothersHoldOnTheWire() throws {
    let service = Service()
    _ = try service.ok("AdjustStock", adjust("put", "a", by: 5))
    let id = try service.ok("Reserve", reserve("k", [line("a", 1)]), caller: "shop").text(1)
    let response = Response()
    service.handler.beginTurn()
    _ = try withRequester("other") { requester throws(FieldViolation) in
      try service.handler.release(of(id).bytes.span, requester, response)
    }
    guard case .failure(let refused) = try Service.answer(in: response) else {
      return #expect(Bool(false), "no failure")
    }
    #expect(refused.code == .permissionDenied && refused.reason == "NOT_OWN_HOLD")
    #expect(refused.metadata.isEmpty)
    response.begin()
    _ = try withRequester("shop") { requester throws(FieldViolation) in
      try service.handler.release(of(id).bytes.span, requester, response)
    }
    service.handler.endTurn()
    guard case .message = try Service.answer(in: response) else {
      return #expect(Bool(false), "no message")
    }
  }

  /// Calls `body` with somebody who may change its own holds alone.
  private func withRequester<Value>(
    _ caller: String, _ body: (Requester) throws(FieldViolation) -> Value
  ) throws -> Value {
    let bytes = Array(caller.utf8)
    return try unsafe bytes.withUnsafeBufferPointer { bytes in
      // The bytes stay for the length of the closure.
      try body(
        Requester(
          caller: unsafe BorrowedBytes(bytes.baseAddress, count: bytes.count), ownHoldsOnly: true))
    }
  }
}
