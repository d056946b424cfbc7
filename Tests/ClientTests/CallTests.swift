// Requests and responses on the wire, failures in words, and which server is asked next.
import Bytes
import Foundation
import GRPC
import Posix
import Testing

@testable import Client

/// Written as a server writes it.
private func message(_ body: (ProtoWriter) -> Void) -> [UInt8] {
  let writer = ProtoWriter()
  defer { writer.destroy() }
  body(writer)
  return writer.withBytes { bytes in (0..<bytes.count).map { bytes[$0] } }
}

private func text(_ writer: ProtoWriter, _ number: Int, _ text: String) {
  writer.nested(number) { writer.text(text) }
}

private func details(_ parts: [(String, (ProtoWriter) -> Void)]) -> StatusDetails {
  let bytes = message { writer in
    for (type, body) in parts {
      writer.nested(3) {
        text(writer, 1, "type.googleapis.com/google.rpc.\(type)")
        writer.nested(2) { body(writer) }
      }
    }
  }
  return unsafe bytes.withUnsafeBytes { unsafe StatusDetails($0) }
}

/// A refusal, as a server makes it.
private func refusal(
  _ code: StatusCode, _ reason: String, _ metadata: [(String, String)] = []
) -> CallFailure {
  var failure = CallFailure(.answered(code), "words", server: "s:1")
  failure.details = details([
    (
      "ErrorInfo",
      { writer in
        text(writer, 1, reason)
        for (name, value) in metadata {
          writer.nested(3) {
            text(writer, 1, name)
            text(writer, 2, value)
          }
        }
      }
    )
  ])
  return failure
}

@Suite struct WireTests {
  @Test func aChangeWithZeroIsWritten() {
    var adjustment = Adjustment(ItemName(sku: "a", location: "b"), .set(0))
    adjustment.check = .version(0)
    adjustment.safetyStock = 0
    let bytes = Requests.adjust(adjustment, ChangeNote(key: "k", reason: "r", reference: "o"))
    #expect(
      bytes == [
        0x0a, 1, 0x6b, 0x12, 1, 0x61, 0x1a, 1, 0x62, 0x28, 0, 0x30, 0, 0x40, 0, 0x4a, 1, 0x72, 0x72,
        1,
        0x6f,
      ])
  }

  @Test(arguments: [
    (StockChange.add(-1), [UInt8](repeating: 0xff, count: 9) + [1], UInt8(0x20)),
    (.ship(3), [3], 0x50), (.uncommit(4), [4], 0x58), (.add(0), [0], 0x20),
  ]) func aChangeIsAMemberOfItsOneof(_ change: StockChange, _ value: [UInt8], _ tag: UInt8) {
    let bytes = Requests.adjust(Adjustment(ItemName(sku: "a"), change), ChangeNote(key: "k"))
    #expect(bytes == [0x0a, 1, 0x6b, 0x12, 1, 0x61, tag] + value + [0x38, 1])
  }

  @Test func anEmptySaleTakesAwayWhatWasSet() {
    var adjustment = Adjustment(ItemName(sku: "a"))
    adjustment.sale = SaleWindow()
    let bytes = Requests.adjust(adjustment, ChangeNote(key: "k"))
    #expect(bytes.suffix(4) == [0x38, 1, 0x7a, 0])
  }

  @Test func aReservationIsRead() throws {
    let bytes = message { writer in
      writer.nested(1) {
        text(writer, 1, "id")
        writer.field(2, UInt64(3))
        writer.nested(3) {
          text(writer, 1, "a")
          writer.field(3, Int64(5))
        }
        writer.field(5, seconds: 1_500_000_000)
        text(writer, 7, "order-1")
        writer.field(8, UInt64.max)
        text(writer, 99, "of a newer server")
      }
      writer.field(2, true)
    }
    let response = try #require(Response(bytes) { Reservation($0) })
    let reservation = try #require(response.entries.first)
    #expect(response.isReplayed)
    #expect(
      reservation.id == "id" && reservation.state == .released && reservation.revision == .max)
    #expect(reservation.lines == [ReservationLine(ItemName(sku: "a"), 5)])
    #expect(reservation.expiresAt == Instant(seconds: 1, nanos: 500_000_000))
    #expect(reservation.endedAt == nil)
  }

  @Test func whatIsCutOffIsNoMessage() {
    let bytes = message { writer in
      writer.nested(1) {
        writer.nested(3) { text(writer, 1, "ticket") }
      }
    }
    for count in 1..<bytes.count {
      #expect(Response(Array(bytes.prefix(count))) { Reservation($0) } == nil, "\(count)")
    }
  }

  /// A server may send anything.
  @Test func randomBytesEndNothing() {
    var state: UInt64 = 7
    func next() -> UInt8 {
      state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
      return UInt8(truncatingIfNeeded: state >> 33)
    }
    for length in 0..<400 {
      // Small bytes are tags and lengths more often.
      let bytes = (0..<length % 40).map { _ in length % 2 == 0 ? next() : next() % 32 }
      unsafe bytes.withUnsafeBytes { raw in
        _ = unsafe StatusDetails(raw)
        let message = unsafe WatchMessage(raw)
        #expect(message == nil || message?.token.isEmpty == false)
      }
      _ = Response(bytes) { StockLevel($0)?.json.line }
      _ = Response(bytes) { Reservation($0)?.json.line }
      _ = ImportAnswer(bytes)
      _ = HeldReservation(bytes)
    }
  }

  @Test func detailsAreRead() {
    let found = details([
      (
        "ErrorInfo",
        { writer in
          text(writer, 1, "INSUFFICIENT_STOCK")
          writer.nested(3) {
            text(writer, 1, "sku")
            text(writer, 2, "a")
          }
        }
      ),
      ("RetryInfo", { writer in writer.field(1, seconds: 250_000_000) }),
      (
        "PreconditionFailure",
        { writer in
          writer.nested(1) {
            text(writer, 1, "T")
            text(writer, 2, "a oslo")
            text(writer, 3, "none")
          }
        }
      ),
    ])
    #expect(found.reason == "INSUFFICIENT_STOCK" && found.value("sku") == "a")
    #expect(found.retryNanoseconds == 250_000_000)
    #expect(found.violations == [Violation(subject: "a oslo", description: "none")])
  }

  @Test(arguments: [
    ("t0k3n", WatchPosition(.after("t0k3n"))),
    ("t0k3n 7", WatchPosition(.after("t0k3n"), printed: 7)),
    ("oldest 18446744073709551615", WatchPosition(.oldest, printed: .max)),
  ]) func aResumeFileIsRead(_ text: String, _ position: WatchPosition) {
    #expect(WatchPosition(text) == position && position.text == text)
  }

  @Test(arguments: ["", " ", "a b", "a 1 2", "a\u{e9}", "a -1", String(repeating: "a", count: 513)])
  func whatIsNoResumeFileIsNone(_ text: String) {
    #expect(WatchPosition(text) == nil)
  }

  @Test func aServerDoesNotMakeAClientWaitForEver() {
    let found = details([("RetryInfo", { $0.nested(1) {} })])
    #expect(found.retryNanoseconds == 0)
    let long = details([
      ("RetryInfo", { writer in writer.nested(1) { writer.field(1, Int64.max) } })
    ])
    #expect(long.retryNanoseconds == 60_000_000_000)
    let negative = details([
      ("RetryInfo", { writer in writer.nested(1) { writer.field(1, Int64.min) } })
    ])
    #expect(negative.retryNanoseconds == 0)
  }

  @Test(arguments: [
    ("a", "a", ""), ("a@b", "a", "b"), ("a@b@c", "a@b", "c"), ("a@b@", "a@b", ""), ("@b", "", "b"),
  ]) func anItemIsWrittenWithItsLocation(_ written: String, _ sku: String, _ location: String) {
    #expect(ItemName(parsing: written) == ItemName(sku: sku, location: location))
    if !written.hasPrefix("@") {
      #expect(ItemName(parsing: ItemName(sku: sku, location: location).description).sku == sku)
    }
  }
}

@Suite struct FailureTests {
  @Test(arguments: [
    (CallFailure.Kind.answered(.failedPrecondition), false, Int32(1)),
    (.answered(.notFound), false, 1), (.answered(.aborted), false, 1),
    (.answered(.invalidArgument), false, 1), (.answered(.resourceExhausted), false, 1),
    (.answered(.unavailable), false, 69), (.answered(.unavailable), true, 75),
    (.answered(.unauthenticated), false, 77), (.answered(.permissionDenied), false, 77),
    (.answered(.internal), false, 70), (.answered(.unimplemented), false, 70),
    (.broken(.unauthenticated), false, 77), (.broken(.unknown), true, 75),
    (.broken(.internal), false, 70), (.connection(.unreachable), false, 69),
    (.connection(.unknownHost), false, 69), (.connection(.untrusted), false, 76),
    (.connection(.malformed), true, 70), (.connection(.credentials), false, 77),
    (.connection(.lost), true, 75), (.connection(.lost), false, 69), (.timedOut, true, 75),
    (.timedOut, false, 69), (.malformed, false, 70), (.interrupted, true, 75),
  ]) func everyEndHasItsStatus(_ kind: CallFailure.Kind, _ isUnknown: Bool, _ status: Int32) {
    var failure = CallFailure(kind, "words")
    failure.isOutcomeUnknown = isUnknown
    #expect(failure.exitStatus == status)
  }

  @Test func whoMayNotCallHearsNothingOfWhatWasDecided() {
    #expect(refusal(.failedPrecondition, "INSUFFICIENT_STOCK").saysWhatWasDecided)
    #expect(refusal(.aborted, "VERSION_MISMATCH").saysWhatWasDecided)
    #expect(!refusal(.unauthenticated, "TOKEN_EXPIRED").saysWhatWasDecided)
    #expect(!refusal(.unavailable, "OVERLOADED").saysWhatWasDecided)
    #expect(!refusal(.failedPrecondition, "").saysWhatWasDecided)
    #expect(!CallFailure(.timedOut, "no answer").saysWhatWasDecided)
  }

  @Test func aRefusalIsSaidWithItsReasonAndWhatToDo() {
    #expect(
      refusal(.aborted, "VERSION_MISMATCH", [("current_version", "7")]).lines()
        == ["words (VERSION_MISMATCH)", "  It is at version 7 now."])
    #expect(
      refusal(.unavailable, "NOT_OWNER", [("owner", "b:2")]).lines()
        == [
          "words (NOT_OWNER)", "  The server that decides is at b:2: --target b:2, or name both.",
        ])
  }

  @Test func anUnknownOutcomeIsSaidWithItsKey() {
    var failure = CallFailure(.timedOut, "no answer", server: "s:1")
    failure.isOutcomeUnknown = true
    failure.idempotencyKey = "k"
    #expect(
      failure.lines() == [
        "s:1: no answer (DEADLINE_EXCEEDED)",
        "  It is not known whether it was done. Again with --key k it is done once.",
      ])
    failure.idempotencyKey = ""
    #expect(failure.lines().last?.contains("harmless") == true)
  }

  @Test func severalLinesAreNamed() {
    var failure = refusal(.failedPrecondition, "INSUFFICIENT_STOCK")
    failure.details = details([
      (
        "PreconditionFailure",
        { writer in
          for sku in ["a", "b"] {
            writer.nested(1) {
              text(writer, 2, sku)
              text(writer, 3, "none of \(sku)")
            }
          }
        }
      )
    ])
    #expect(
      failure.lines().prefix(3) == [
        "words (FAILED_PRECONDITION)", "  a: none of a", "  b: none of b",
      ])
  }

  @Test func hostileWordsDoNotSteerATerminal() {
    let failure = CallFailure(.answered(.internal), "\u{1b}]0;pwned\u{7}\nroot# ")
    #expect(!failure.lines().joined().unicodeScalars.contains { $0.value < 0x20 })
    #expect(failure.json.line.utf8.allSatisfy { $0 >= 0x20 && $0 < 0x7f })
  }

  /// Every reason of the architecture's table of errors that a command can meet says what to do, or needs no more words.
  @Test func everyReasonIsKnown() throws {
    let folders = #filePath.split(separator: "/").dropLast(3)
    let path = "/" + folders.joined(separator: "/") + "/docs/ARCHITECTURE.md"
    let page = try String(contentsOfFile: path, encoding: .utf8)
    let table = page.split(separator: "## Errors")[1].split(separator: "\n\n")[1]
    let reasons = table.matches(of: /[A-Z]+_[A-Z_]+/).map { String($0.output) }
      .filter {
        ![
          "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "OUT_OF_RANGE", "NOT_FOUND",
          "INVALID_ARGUMENT", "DATA_LOSS", "DEADLINE_EXCEEDED",
        ].contains($0)
      }
    #expect(reasons.count > 30)
    let plain: Set = [
      "INVALID_FIELD", "NO_JOURNAL", "BACKUP_NEEDS_TOKENS", "TOO_MANY_BACKUPS", "DATA_DAMAGED",
    ]
    for reason in reasons where !plain.contains(reason) {
      #expect(refusal(.failedPrecondition, reason).hint != nil, "\(reason)")
    }
  }
}

@Suite struct TargetTests {
  @Test(arguments: [
    ("127.0.0.1:7420", "127.0.0.1:7420", false), ("[::1]:7420", "[::1]:7420", false),
    ("shop.example:1", "shop.example:1", false),
    ("https://shop.example:7420", "shop.example:7420", true),
    ("https://shop.example:7420/", "shop.example:7420", true),
    ("unix:/run/h.sock", "unix:/run/h.sock", false),
    ("http://a:1", "a:1", false),
  ]) func anAddressIsRead(_ written: String, _ target: String, _ isSecure: Bool) throws {
    let found = try #require(ServiceTarget(written))
    #expect(found.description == target && found.asksForTLS == isSecure)
  }

  @Test(arguments: [
    "", "7420", "a", "a:", ":7420", "a:0", "a:65536", "a:x", "unix:", "https://a", "ftp://a:1",
    "[::1", "[::1:7420", "::1]:7420", "[[::1]]:7420", "[]:7420",
    "https://a:1/path",
  ]) func whatIsNoAddressIsNone(_ written: String) {
    #expect(ServiceTarget(written) == nil)
  }

  @Test(arguments: [
    ("hft_abc", "hft_abc"), ("", nil), ("a b", nil), ("a\u{e9}", nil), ("a\nb", nil),
    ("token sha256:00 caller=a", nil), (String(repeating: "x", count: 8193), nil),
  ]) func aTokenIsChecked(_ text: String, _ token: String?) {
    #expect((try? TokenSource.text(text).read()) == token)
  }

  private func rotation(_ count: Int) -> TargetRotation {
    TargetRotation((1...count).map { ServiceTarget("s\($0):1")! })
  }

  @Test func aLostServerIsLeftForTheNextAtOnce() {
    var rotation = rotation(3)
    let lost = CallFailure(.connection(.unreachable), "gone")
    #expect(rotation.failed(lost) == 0 && rotation.target.description == "s2:1")
    #expect(rotation.failed(lost) == 0 && rotation.target.description == "s3:1")
    #expect(rotation.failed(lost) > 0 && rotation.target.description == "s1:1")
  }

  @Test func aBusyServerIsAskedAgainAsItSays() {
    var rotation = rotation(2)
    var busy = refusal(.unavailable, "OVERLOADED")
    busy.details = details([("RetryInfo", { $0.field(1, seconds: 1_700_000_000) })])
    #expect(rotation.failed(busy) == 1_700_000_000 && rotation.target.description == "s1:1")
  }

  @Test func theNamedOwnerIsAskedNext() {
    var rotation = rotation(3)
    let other = refusal(.unavailable, "NOT_OWNER", [("owner", "s3:1")])
    #expect(rotation.failed(other) == 0 && rotation.target.description == "s3:1")
    // Servers that send a client round and round do not make it spin.
    let back = refusal(.unavailable, "NOT_OWNER", [("owner", "s1:1")])
    let waits = [back, other, back, other, back].map { rotation.failed($0) }
    #expect(waits.filter { $0 > 0 }.count >= 1)
  }

  @Test func waitsGrowAndAreBounded() {
    var rotation = rotation(1)
    let lost = CallFailure(.connection(.lost), "gone")
    let waits = (0..<12).map { _ in rotation.failed(lost) }
    #expect(waits[0] <= 60_000_000 && waits.allSatisfy { $0 > 0 && $0 <= 2_400_000_000 })
    #expect(waits[11] >= 1_600_000_000)
    rotation.succeeded()
    #expect(rotation.failed(lost) <= 60_000_000)
  }
}

@Suite struct ForesightTests {
  private func level(onHand: Int64, held: Int64 = 0, committed: Int64 = 0, safety: Int64 = 0)
    -> StockLevel
  {
    var level = StockLevel()
    level.item = ItemName(sku: "a")
    (level.onHand, level.held, level.committed, level.safetyStock) = (
      onHand, held, committed, safety
    )
    level.available = onHand - held - committed - safety
    level.version = 7
    return level
  }

  @Test func aChangeIsForeseen() throws {
    let after = try Adjustment(ItemName(sku: "a"), .add(-3))
      .foreseen(on: level(onHand: 10, held: 2, committed: 1, safety: 1)).get()
    #expect(after.onHand == 7 && after.available == 3 && after.version == 8)
    let shipped = try Adjustment(ItemName(sku: "a"), .ship(2))
      .foreseen(on: level(onHand: 10, held: 9, committed: 2)).get()
    #expect(shipped.onHand == 8 && shipped.committed == 0)
    let made = try Adjustment(ItemName(sku: "b"), .set(4)).foreseen(on: nil).get()
    #expect(made.onHand == 4 && made.item.sku == "b" && made.version == 1)
  }

  /// Those that a server lies about: StockLevel takes none beyond 2^53, and sums of such do not trap.
  @Test func balancesThatAreHugeAreForeseenToo() {
    let most: Int64 = 1 << 53
    var level = level(onHand: most, held: most, committed: -most, safety: -most)
    level.version = .max
    for change: StockChange in [.add(Units.max), .set(Units.max), .ship(1), .uncommit(Units.max)] {
      _ = Adjustment(ItemName(sku: "a"), change).foreseen(on: level)
    }
    level.held = -most
    level.committed = most
    #expect(throws: ForeseenRefusal.self) {
      try Adjustment(ItemName(sku: "a"), .add(1)).foreseen(on: level).get()
    }
  }

  @Test func refusalsAreForeseen() {
    func reason(_ adjustment: Adjustment, _ level: StockLevel?) -> String {
      if case .failure(let refusal) = adjustment.foreseen(on: level) { refusal.reason } else { "" }
    }
    let item = ItemName(sku: "a")
    let held = level(onHand: 10, held: 6, committed: 2)
    #expect(reason(Adjustment(item, .set(7)), held) == "INSUFFICIENT_STOCK")
    #expect(reason(Adjustment(item, .set(8)), held) == "")
    var short = Adjustment(item, .set(7))
    short.allowsShortage = true
    #expect(reason(short, held) == "")
    #expect(reason(Adjustment(item, .ship(3)), held) == "INSUFFICIENT_COMMITTED")
    #expect(reason(Adjustment(item, .add(-1)), nil) == "ITEM_NOT_FOUND")
    #expect(reason(Adjustment(item, .add(Units.max)), held) == "ON_HAND_LIMIT")
    var checked = Adjustment(item, .set(9))
    checked.check = .version(6)
    #expect(reason(checked, held) == "VERSION_MISMATCH")
    checked.check = .onHand(9)
    #expect(reason(checked, held) == "ON_HAND_MISMATCH")
    checked.check = .version(0)
    #expect(reason(checked, nil) == "")
  }
}
