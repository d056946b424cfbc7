import Bytes
import GRPC
import Testing
import WireTesting

@testable import HTTP2

@Suite("Response")
struct ResponseTests {
  private static func fail(
    _ response: Response, _ code: StatusCode, _ text: String = "", details: [UInt8] = [],
    retryMilliseconds: Int32 = 0, httpStatus: Int = 200
  ) {
    let text = Array(text.utf8)
    response.fail(
      code, text.span, details: details.span, retryMilliseconds: retryMilliseconds,
      httpStatus: httpStatus)
  }

  private static func block(_ response: Response, asTrailers: Bool = false) -> [UInt8] {
    response.withFailureBlock(asTrailers: asTrailers, array)
  }

  private static func fields(_ response: Response, asTrailers: Bool = false) -> [[String]]? {
    headerFields(of: block(response, asTrailers: asTrailers))
  }

  private static let head = [[":status", "200"], ["content-type", "application/grpc"]]

  @Test("A message is written where it is lent room, or into the response's own memory")
  func messages() {
    let response = Response()
    let text = Array("hello".utf8)
    response.begin()
    response.message.text(text.span)
    #expect(response.kind == .message && response.message.isInOwnMemory)
    let room = UnsafeMutableRawBufferPointer.allocate(byteCount: 64, alignment: 1)
    defer { unsafe room.deallocate() }
    unsafe response.begin(in: room)
    response.message.text(text.span)
    #expect(response.kind == .message && !response.message.isInOwnMemory)
    #expect(response.message.withBytes(array) == text)
    #expect(unsafe Array(room.prefix(5)) == text)
  }

  @Test("A failure is a code, a text and details", arguments: StatusCode.allCases)
  func failure(code: StatusCode) {
    let response = Response()
    response.begin()
    response.message.text("left over")
    Self.fail(response, code, "50% größer\n", details: [0xfb, 0xff])
    #expect(response.kind == .failure(code))
    var said = [
      ["grpc-status", "\(code.rawValue)"], ["grpc-message", "50%25 gr%C3%B6%C3%9Fer%0A"],
      ["grpc-status-details-bin", "+/8"],
    ]
    if code == .unimplemented { said.append(["grpc-accept-encoding", "identity,deflate,gzip"]) }
    #expect(Self.fields(response) == Self.head + said)
    #expect(Self.fields(response, asTrailers: true) == said)
  }

  @Test("Every failure begins without the wait and the details of the one before")
  func forgets() {
    let response = Response()
    Self.fail(response, .unavailable, "later", details: [1], retryMilliseconds: 250)
    #expect(Self.fields(response)?.last == ["grpc-retry-pushback-ms", "250"])
    Self.fail(response, .aborted, "no")
    #expect(
      Self.fields(response) == Self.head + [["grpc-status", "10"], ["grpc-message", "no"]])
    response.begin()
    #expect(response.kind == .message && response.message.count == 0)
  }

  @Test("Numbers in the trailers go with a message and with a failure, and with no other response")
  func trailers() {
    let response = Response()
    let key = FailureKey(high: 1, low: 2)
    let plain = [["grpc-status", "5"], ["grpc-message", "no"]]
    let told = [["n-first", "0"], ["n-last", "\(UInt64.max)"]]
    func tell() {
      response.begin()
      response.addTrailer("n-first", 0)
      response.addTrailer("n-last", .max)
    }
    tell()
    #expect(
      response.trailers.flatMap { $0.withBlock { headerFields(of: array($0)) } }
        == [["grpc-status", "0"]] + told)
    Self.fail(response, .notFound, "no")
    #expect(Self.fields(response) == Self.head + plain + told)
    #expect(Self.fields(response, asTrailers: true) == plain + told)
    // It is no other call's.
    response.keepFailure(as: key)
    response.begin()
    #expect(response.trailers == nil)
    #expect(!response.failAgain(key))
    Self.fail(response, .notFound, "no")
    #expect(Self.fields(response) == Self.head + plain)
    response.keepFailure(as: key)
    tell()
    #expect(!response.failAgain(key))
    response.begin()
    #expect(response.failAgain(key))
  }

  @Test("What is not gRPC has an HTTP status of its own", arguments: [200, 405, 415])
  func httpStatus(status: Int) {
    let response = Response()
    Self.fail(response, .unknown, "no", httpStatus: status)
    #expect(Self.fields(response)?.first == [":status", "\(status)"])
    #expect(Self.fields(response, asTrailers: true)?.first == ["grpc-status", "2"])
  }

  @Test("Details that are too long are left out whole, a text is cut off, and the rest stands")
  func tooLong() {
    let response = Response()
    let long = [UInt8](repeating: 7, count: 6144)
    Self.fail(response, .aborted, "x", details: long)
    #expect(Self.fields(response)?.last?.last?.utf8.count == 8192)
    Self.fail(response, .aborted, "x", details: long + [7])
    #expect(Self.fields(response) == Self.head + [["grpc-status", "10"], ["grpc-message", "x"]])
    Self.fail(response, .aborted, String(repeating: "x", count: 4097), details: [1])
    let cut = String(repeating: "x", count: 4096)
    #expect(
      Self.fields(response) == Self.head + [
        ["grpc-status", "10"], ["grpc-message", cut], ["grpc-status-details-bin", "AQ"],
      ])
  }

  // MARK: Failures that are kept

  private static func key(_ number: UInt64) -> FailureKey {
    FailureKey(high: number &* 0xd6e8_feb8_6659_fd93, low: number)
  }

  @Test("A failure that was kept comes back byte for byte, as headers and as trailers")
  func kept() {
    let response = Response()
    #expect(!response.failAgain(Self.key(1)))
    Self.fail(response, .failedPrecondition, "sold out", details: [1, 2], retryMilliseconds: 5)
    let (headers, trailers) = (Self.block(response), Self.block(response, asTrailers: true))
    response.keepFailure(as: Self.key(1))
    Self.fail(response, .internal, "another")
    response.begin()
    #expect(!response.failAgain(Self.key(2)))
    #expect(response.kind == .message)
    #expect(response.failAgain(Self.key(1)))
    #expect(response.kind == .failure(.failedPrecondition))
    #expect(Self.block(response) == headers)
    #expect(Self.block(response, asTrailers: true) == trailers)
    // A failure that is made behind it does not change what is kept.
    Self.fail(response, .notFound, String(repeating: "y", count: 900))
    #expect(response.failAgain(Self.key(1)))
    #expect(Self.block(response) == headers)
  }

  @Test("A failure that a stream refers to stays until it is out")
  func inUse() throws {
    let response = Response()
    func keepOthers() -> Int {
      (2..<20_000 as Range<UInt64>).count {
        Self.fail(response, .failedPrecondition, "other")
        response.keepFailure(as: Self.key($0))
        return unsafe response.keptFailure == nil
      }
    }
    Self.fail(response, .failedPrecondition, "sold out")
    #expect(unsafe response.keptFailure == nil)
    let block = Self.block(response)
    response.keepFailure(as: Self.key(1))
    let kept = unsafe try #require(response.keptFailure)
    unsafe kept.pointee.references = 1
    let notKept = keepOthers()
    #expect(notKept > 0 && notKept < 100)
    #expect(response.failAgain(Self.key(1)) && Self.block(response) == block)
    #expect(unsafe response.keptFailure == kept)
    unsafe kept.pointee.references = 0
    #expect(keepOthers() == 0)
    #expect(!response.failAgain(Self.key(1)))
  }

  @Test("Keys that differ in any bit are different failures", arguments: 0..<128)
  func bits(bit: Int) {
    let response = Response()
    let key = FailureKey(high: 5, low: 9)
    let other =
      bit < 64
      ? FailureKey(high: 5, low: 9 ^ 1 << UInt64(bit))
      : FailureKey(high: 5 ^ 1 << UInt64(bit - 64), low: 9)
    Self.fail(response, .aborted, "one")
    response.keepFailure(as: key)
    #expect(!response.failAgain(other))
    #expect(response.failAgain(key))
  }

  @Test("A key of nothing but zeros is a key")
  func zero() {
    let response = Response()
    #expect(!response.failAgain(FailureKey(high: 0, low: 0)))
    Self.fail(response, .aborted, "one")
    response.keepFailure(as: FailureKey(high: 0, low: 0))
    #expect(response.failAgain(FailureKey(high: 0, low: 0)))
  }

  @Test("What is found is what was kept, however many there are")
  func many() {
    let response = Response()
    var found = 0
    for number in 0..<20_000 as Range<UInt64> {
      Self.fail(response, .aborted, "failure \(number)")
      response.keepFailure(as: Self.key(number))
    }
    for number in 0..<20_000 as Range<UInt64> where response.failAgain(Self.key(number)) {
      found += 1
      #expect(Self.fields(response)?.last == ["grpc-message", "failure \(number)"])
    }
    #expect(found > 1000 && found <= 4096)
  }

  @Test("A failure that is too long is not kept, and what was there stays")
  func longFailures() {
    let response = Response()
    Self.fail(response, .aborted, "short")
    response.keepFailure(as: Self.key(1))
    Self.fail(response, .aborted, String(repeating: "x", count: 1200))
    response.keepFailure(as: Self.key(1))
    response.keepFailure(as: Self.key(2))
    #expect(response.failAgain(Self.key(1)))
    #expect(Self.fields(response)?.last == ["grpc-message", "short"])
    #expect(!response.failAgain(Self.key(2)))
    // A message is no failure.
    response.begin()
    response.keepFailure(as: Self.key(3))
    #expect(!response.failAgain(Self.key(3)))
  }

  @Test("Status codes are those of gRPC")
  func codes() {
    #expect(StatusCode.allCases.map(\.rawValue) == Array(0...16))
    #expect(StatusCode.invalidArgument.rawValue == 3)
    #expect(StatusCode.failedPrecondition.rawValue == 9)
    #expect(StatusCode.unimplemented.rawValue == 12)
    #expect(StatusCode.internal.rawValue == 13)
    #expect(StatusCode.unavailable.rawValue == 14)
    #expect(StatusCode.unauthenticated.rawValue == 16)
  }
}
