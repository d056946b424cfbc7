import GRPC
import HTTP2
import Metrics
import Posix
import Testing

@testable import Server

@Suite("What a connection has time for")
struct ConnectionTimeoutTests {
  private static func context() -> ServerContext {
    let context = ServerContext(
      limits: Fixture.limits.http2, captured: [], header: ContentType.field,
      trailer: ConstantField("grpc-status", "0"))
    context.setNow(nanoseconds: begin)
    return context
  }

  private static var limits: ServerLimits {
    var limits = Fixture.limits
    limits.handshakeNanosecondsMax = 10 * second
    limits.stalledWriteNanosecondsMax = 60 * second
    limits.connectionPolicy.ageNanoseconds = 1000 * second
    limits.connectionPolicy.ageGraceNanoseconds = 30 * second
    limits.connectionPolicy.idleNanoseconds = 300 * second
    limits.connectionPolicy.keepaliveNanoseconds = 100 * second
    limits.connectionPolicy.keepaliveTimeoutNanoseconds = 20 * second
    return limits
  }

  /// When the connection was opened.
  private static let begin = 5000 * second

  struct Case: Sendable, CustomTestStringConvertible {
    let name: String
    /// Bytes that came at the beginning; nil: no http.
    var bytes: [UInt8]? = Frame.preface + Frame.settings
    /// Seconds after the beginning, and what is to be done then.
    let verdicts: [(Double, ConnectionTimeouts.Verdict)]
    var change: @Sendable (inout Connection) -> Void = { _ in }

    var testDescription: String { name }
  }

  static let cases: [Case] = [
    Case(
      name: "nothing was said", bytes: nil,
      verdicts: [(0, .inTime), (10, .inTime), (10.1, .abuse(.handshakeTimeout))]),
    Case(
      name: "no SETTINGS", bytes: Frame.preface,
      verdicts: [(10, .inTime), (10.1, .abuse(.handshakeTimeout))]),
    Case(
      name: "our side has ended", bytes: nil,
      verdicts: [(20, .inTime), (21, .inTime), (21.1, .over)]
    ) {
      $0.lingersSinceNanoseconds = begin + 20 * second
    },
    Case(name: "bytes that nobody takes", verdicts: [(60, .inTime), (60.1, .abuse(.slowReader))]) {
      $0.isWatchedForWriting = true
      $0.isReadingPaused = true
    },
    Case(
      name: "a frame that does not end", bytes: Frame.preface + Frame.settings + [0, 0],
      verdicts: [(10, .inTime), (10.1, .fault(.unfinishedFrame))]),
    Case(
      name: "the same, not read for a while", bytes: Frame.preface + Frame.settings + [0, 0],
      verdicts: [(50, .inTime), (50.1, .fault(.unfinishedFrame))]
    ) {
      $0.resumedNanoseconds = begin + 40 * second
    },
    Case(
      name: "the same, not read", bytes: Frame.preface + Frame.settings + [0, 0],
      verdicts: [(99, .inTime)]
    ) {
      $0.isReadingPaused = true
    },
    Case(name: "silence", verdicts: [(99.9, .inTime), (100, .ping)]),
    Case(
      name: "a PING without an answer",
      verdicts: [(119.9, .inTime), (120, .abuse(.keepaliveTimeout))]
    ) {
      $0.pingedNanoseconds = begin + 100 * second
    },
    Case(name: "a PING with one", verdicts: [(121, .inTime), (200.9, .inTime), (201, .ping)]) {
      $0.pingedNanoseconds = begin + 100 * second
      $0.readNanoseconds = begin + 101 * second
    },
    Case(name: "no call", verdicts: [(299.9, .inTime), (300, .drain)]) {
      $0.readNanoseconds = begin + 290 * second
    },
    Case(name: "old", verdicts: [(49.9, .inTime), (50, .drain)]) {
      $0.endNanoseconds = begin + 50 * second
    },
    Case(name: "told to go", verdicts: [(50, .inTime), (50.1, .refuseNewStreams)]) {
      $0.drainsSinceNanoseconds = begin + 50 * second
    },
    Case(name: "told twice", verdicts: [(51, .inTime), (79.9, .inTime), (80, .cutOff)]) {
      $0.drainsSinceNanoseconds = begin + 50 * second
      $0.refusesStreams = true
    },
  ]

  @Test("Verdicts", arguments: cases)
  func verdicts(of one: Case) throws {
    let context = Self.context()
    var connection = Connection()
    connection.openedNanoseconds = Self.begin
    connection.progressNanoseconds = Self.begin
    connection.readNanoseconds = Self.begin
    connection.idleSinceNanoseconds = Self.begin
    if let bytes = one.bytes {
      let http = try #require(context.open(token: 1))
      unsafe bytes.withUnsafeBytes { #expect(unsafe http.receive($0) == nil) }
      connection.http = http
    }
    defer { connection.http?.close() }
    one.change(&connection)
    let timeouts = ConnectionTimeouts(Self.limits)
    for (seconds, verdict) in one.verdicts {
      let now = Self.begin + Int64(seconds * Double(second))
      #expect(timeouts.verdict(connection, at: now) == verdict, "after \(seconds) s")
    }
  }

  @Test("Where nothing is set, an idle connection has all the time there is")
  func unlimited() throws {
    let context = Self.context()
    var connection = Connection()
    let http = try #require(context.open(token: 1))
    defer { http.close() }
    let bytes = Frame.preface + Frame.settings
    unsafe bytes.withUnsafeBytes { #expect(unsafe http.receive($0) == nil) }
    connection.http = http
    let timeouts = ConnectionTimeouts(Fixture.limits)
    connection.endNanoseconds = timeouts.end(openedNanoseconds: Self.begin, random: 7)
    #expect(connection.endNanoseconds == .max)
    #expect(timeouts.verdict(connection, at: .max / 2) == .inTime)
  }

  @Test("Ages differ by a tenth both ways", arguments: [0, 1, 1 << 40, UInt64.max])
  func ages(random: UInt64) {
    let end = ConnectionTimeouts(Self.limits).end(openedNanoseconds: Self.begin, random: random)
    #expect(end >= Self.begin + 900 * second && end < Self.begin + 1100 * second)
  }
}
