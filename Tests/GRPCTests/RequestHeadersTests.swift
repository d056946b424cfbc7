import GRPC
import Testing

@Suite("Request head")
struct RequestHeadTests {
  /// A request's header fields, and what must become of it. Method 3 is at "/s/m".
  struct Case: CustomTestStringConvertible {
    var method = "POST"
    var path = "/s/m"
    var contentType = "application/grpc"
    var encoding = ""
    let head: RequestHead

    var testDescription: String { "\(method) \(path) '\(contentType)' '\(encoding)'" }
  }

  private static func decide(_ request: Case) -> RequestHead {
    let method = Array(request.method.utf8)
    let path = Array(request.path.utf8)
    let contentType = Array(request.contentType.utf8)
    let encoding = Array(request.encoding.utf8)
    return RequestHead.decide(
      method: method.span, path: path.span, contentType: contentType.span,
      encoding: encoding.span
    ) { path in
      let known = Array("/s/m".utf8)
      return known.count == path.count && known.indices.allSatisfy { known[$0] == path[$0] }
        ? 3 : nil
    }
  }

  private static let call = RequestHead.call(method: 3)
  private static let notPost = RequestHead.reject(.notPost)
  private static let wrongType = RequestHead.reject(.wrongContentType)
  private static let unknown = RequestHead.reject(.unknownMethod)
  private static let unsupported = RequestHead.reject(.compressed)

  private static let accepted =
    ["", "+proto", ";charset=utf-8", "; x", "+proto;a=b", ";", "+proto;"].map {
      Case(contentType: "application/grpc" + $0, head: call)
    } + [Case(encoding: "identity", head: call)]

  private static let wrongTypes = [
    "", "application/json", "application/grpc+json", "application/grpc-web", "application/grp",
    "application/grpc+prot", "application/grpc+proto2", "application/grpcx", "Application/grpc",
    " application/grpc", "application/grpc ", "application/grpc+", "application/grpc+thrift",
    "text/application/grpc", "application/grpc-web+proto",
  ].map { Case(contentType: $0, head: wrongType) }

  private static let wrongMethods = ["GET", "PUT", "post", "POST ", "", "POS", "HEAD", "POSTT"].map
  {
    Case(method: $0, head: notPost)
  }

  private static let unknownPaths = ["", "/", "/s", "/s/", "/s/M", "/s/m/", "s/m", "/s/m?x"].map {
    Case(path: $0, head: unknown)
  }

  private static let encodings = ["gzip", "deflate", "snappy", "Identity", "identity,gzip", " "].map
  {
    Case(encoding: $0, head: unsupported)
  }

  /// Where several things are wrong, the one that says most about the caller is named.
  private static let several = [
    Case(method: "GET", path: "/x", contentType: "text/html", encoding: "gzip", head: notPost),
    Case(path: "/x", contentType: "text/html", encoding: "gzip", head: wrongType),
    Case(path: "/x", encoding: "gzip", head: unknown),
  ]

  @Test(
    "Decisions",
    arguments: accepted + wrongTypes + wrongMethods + unknownPaths + encodings + several)
  func decision(_ request: Case) { #expect(Self.decide(request) == request.head) }

  @Test("The path is asked for only where the request is gRPC at all")
  func asksLate() {
    let empty: [UInt8] = []
    let post = Array("POST".utf8)
    var asked = 0
    _ = RequestHead.decide(
      method: post.span, path: empty.span, contentType: empty.span, encoding: empty.span
    ) { _ in
      asked += 1
      return nil
    }
    #expect(asked == 0)
  }

  @Test(
    "A head survives as a number",
    arguments: [
      RequestHead.call(method: 0), .call(method: 1), .call(method: 13),
      .call(method: Int(Int32.max)),
    ] + Rejection.allCases.map { .reject($0) })
  func roundTrip(_ head: RequestHead) { #expect(RequestHead(code: head.code) == head) }

  @Test("Different heads are different numbers")
  func distinct() {
    let heads = [Self.notPost, Self.wrongType, Self.unknown, Self.unsupported, Self.call]
    #expect(Set(heads.map(\.code)).count == heads.count)
  }

  @Test("Fields are named as on the wire")
  func names() {
    #expect(
      RequestField.allCases.map { "\($0.name)" } == [
        ":method", ":path", "content-type", "grpc-encoding", "holdfast-caller", "grpc-timeout",
      ])
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
