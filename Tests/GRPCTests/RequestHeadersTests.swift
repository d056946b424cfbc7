import GRPC
import Testing
import WireTesting

private let handlerMetadata: [StaticString] = ["who", "secret"]

@Suite("Request headers")
struct RequestHeadersTests {
  private typealias Meaning = RequestHeaders.Meaning

  /// A request's header fields, and what must become of it. Method 3 is at "/s/m".
  struct Case: CustomTestStringConvertible {
    var method = "POST"
    var path = "/s/m"
    var contentType = "application/grpc"
    /// nil: the field does not come.
    var encoding: String?
    var accepts: String?
    var timeout: String?
    let meaning: RequestHeaders.Meaning

    var testDescription: String {
      "\(method) \(path) '\(contentType)' \(encoding ?? "-") \(accepts ?? "-") \(timeout ?? "-")"
    }

    var fields: [(String, String)] {
      var fields = [
        (":method", method), (":scheme", "http"), (":path", path), (":authority", "test"),
        ("te", "trailers"),
      ]
      if !contentType.isEmpty { fields.append(("content-type", contentType)) }
      if let encoding { fields.append(("grpc-encoding", encoding)) }
      if let accepts { fields.append(("grpc-accept-encoding", accepts)) }
      if let timeout { fields.append(("grpc-timeout", timeout)) }
      return fields
    }
  }

  private static func call(
    _ encoding: MessageEncoding = .identity, _ response: MessageEncoding = .identity,
    timeout: Int64 = .max
  ) -> RequestHeaders.Meaning {
    .call(
      method: 3, encoding: encoding, responseEncoding: response, timeoutNanoseconds: timeout)
  }

  private static let contentTypes =
    [
      "", "+proto", "+json", "+thrift", "+", ";charset=utf-8", "; x", "+proto;a=b", ";", "+proto;",
    ].map { Case(contentType: "application/grpc" + $0, meaning: call()) }
    + ["Application/gRPC", "APPLICATION/GRPC+PROTO"].map { Case(contentType: $0, meaning: call()) }
    + [
      "", "application/json", "application/grpc-web", "application/grp", "application/grpcx",
      "text/application/grpc", "application/grpc-web+proto", "application/grpc proto",
      "application/grpc,", "application", "/",
    ].map { Case(contentType: $0, meaning: .reject(.wrongContentType)) }

  private static let methods = ["GET", "PUT", "post", "POS", "HEAD", "POSTT"].map {
    Case(method: $0, meaning: .reject(.notPost))
  }

  private static let paths = ["/", "/s", "/s/", "/s/M", "/s/m/", "/s/mm", "/s/m?x"].map {
    Case(path: $0, meaning: .reject(.unknownMethod))
  }

  private static let encodings = [
    Case(encoding: "identity", meaning: call()), Case(encoding: "", meaning: call()),
    Case(encoding: "gzip", meaning: call(.gzip, .gzip)),
    Case(encoding: "deflate", meaning: call(.deflate, .deflate)),
    Case(encoding: "gzip", accepts: "identity,deflate,gzip", meaning: call(.gzip, .gzip)),
    Case(encoding: "gzip", accepts: "identity,deflate", meaning: call(.gzip, .identity)),
    Case(encoding: "gzip", accepts: "", meaning: call(.gzip, .identity)),
    Case(encoding: "deflate", accepts: "gzip", meaning: call(.deflate, .identity)),
    // A client that can read gzip did not ask for it.
    Case(accepts: "identity,deflate,gzip", meaning: call()),
    Case(encoding: "identity", accepts: "gzip", meaning: call()),
  ]
  private static let unknownEncodings = [
    "snappy", "GZIP", "gzip,deflate", "x-gzip", "Identity", "br",
  ]
  .map { Case(encoding: $0, meaning: .reject(.unknownEncoding)) }

  private static let timeouts: [Case] =
    [("1S", 1_000_000_000), ("0n", 0), ("20m", 20_000_000), ("99999999H", .max)].map {
      Case(timeout: $0.0, meaning: call(timeout: $0.1))
    }
    + ["", "1", "1x", "S", "123456789n", "-1S", "1.5S"].map {
      Case(timeout: $0, meaning: .reject(.malformedTimeout))
    }

  /// Where several things are wrong, the one that says most about the caller is named.
  private static let several = [
    Case(
      method: "GET", path: "/x", contentType: "text/html", encoding: "br", timeout: "x",
      meaning: .reject(.notPost)),
    Case(
      path: "/x", contentType: "text/html", encoding: "br", timeout: "x",
      meaning: .reject(.wrongContentType)),
    Case(path: "/x", encoding: "br", timeout: "x", meaning: .reject(.unknownMethod)),
    Case(encoding: "br", timeout: "x", meaning: .reject(.unknownEncoding)),
  ]

  private static func decide(_ headers: RequestHeaders) -> RequestHeaders.Meaning {
    headers.decide { path in path.equals("/s/m") ? 3 : nil }
  }

  @Test(
    "Decisions",
    arguments: contentTypes + methods + paths + encodings + unknownEncodings + timeouts + several)
  func decision(_ request: Case) throws {
    let blocks = RequestHeaderBlocks(metadata: handlerMetadata)
    let meaning = try blocks.with(request.fields) { Self.decide($0) }
    #expect(meaning == request.meaning)
  }

  @Test("The path is asked for only where the request is gRPC at all")
  func asksLate() throws {
    let connection = RequestHeaderBlocks(metadata: handlerMetadata)
    var asked = 0
    for request in Self.methods + Self.contentTypes.filter({ $0.meaning != Self.call() }) {
      _ = try connection.with(request.fields) { headers in
        headers.decide { _ in
          asked += 1
          return nil
        }
      }
    }
    #expect(asked == 0)
  }

  @Test(
    "The handler's metadata comes behind gRPC's fields",
    arguments: [
      ([], "", "", [false, false], [false, false]),
      ([("who", "me")], "me", "", [true, false], [false, false]),
      ([("secret", "s"), ("who", "me")], "me", "s", [true, true], [false, false]),
      ([("who", "")], "", "", [true, false], [false, false]),
      ([("who", "me"), ("who", "me")], "me", "", [true, false], [true, false]),
      ([("secret", "a"), ("who", "x"), ("secret", "b")], "x", "a", [true, true], [false, true]),
      ([("secret", ""), ("secret", "b")], "", "", [false, true], [false, true]),
    ])
  func metadata(
    _ fields: [(String, String)], _ who: String, _ secret: String, _ came: [Bool],
    _ repeated: [Bool]
  ) throws {
    let connection = RequestHeaderBlocks(metadata: handlerMetadata)
    try connection.with(Case(meaning: Self.call()).fields + fields) { headers in
      let texts = (0..<2).map { index in
        headers.withMetadata(index) { String(decoding: array($0), as: UTF8.self) }
      }
      #expect(texts == [who, secret])
      #expect((0..<2).map { headers.hasMetadata($0) } == came)
      #expect((0..<2).map { headers.isMetadataRepeated($0) } == repeated)
      #expect(Self.decide(headers) == Self.call())
      let isAnonymous = headers.certificate == nil
      #expect(isAnonymous)
    }
  }

  @Test("The name in the peer's certificate is handed on")
  func certificate() throws {
    let name = Array("cn:shop".utf8)
    let connection = RequestHeaderBlocks(metadata: handlerMetadata)
    try connection.with(
      Case(meaning: Self.call()).fields, certificate: CertificateName(name.span)
    ) { headers in
      let told = headers.certificate?.withName(array)
      #expect(told == name)
    }
  }

  @Test("Fields are named as on the wire, and captured in the order of their numbers")
  func names() {
    #expect(
      RequestField.allCases.map { "\($0.name)" } == [
        ":method", ":path", "content-type", "grpc-encoding", "grpc-accept-encoding", "grpc-timeout",
        "traceparent",
      ])
    #expect(RequestField.allCases.map(\.rawValue) == Array(0..<7))
  }
}

@Suite("Rejections")
struct RejectionTests {
  @Test("Each has a status, a reason and a text", arguments: Rejection.allCases)
  func complete(_ rejection: Rejection) {
    #expect(rejection.code != .ok)
    let reason = "\(rejection.reason)"
    #expect(!reason.isEmpty && reason.allSatisfy { $0 == "_" || ("A"..."Z").contains($0) })
    #expect(!"\(rejection.text)".isEmpty)
  }

  @Test("Only what is not gRPC has an HTTP error")
  func httpStatus() {
    let errors = Rejection.allCases.filter { $0.httpStatus != 200 }
    #expect(errors == [.notPost, .wrongContentType])
  }
}
