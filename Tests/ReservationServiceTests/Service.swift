// The whole service without a server: one handler on one store, driven with bytes.
import Bytes
import GRPC
import Posix
import ReservationService
import StockStore
import Testing
import WireTesting

let second: Int64 = 1_000_000_000
let quantityMax: Int64 = 1 << 40
/// The longest request that the server hands over.
let messageBytesMax = 80 * 1024

/// What came back of a call.
enum Answer: Equatable {
  case message(Fields)
  case failure(Refused)

  /// A failure with what its google.rpc.Status says.
  struct Refused: Equatable {
    var code: StatusCode
    var text: String
    var reason = ""
    var domain = ""
    var metadata: [String: String] = [:]
    var retryNanoseconds: Int64?
    /// grpc-retry-pushback-ms; 0: none.
    var retryMilliseconds: Int32 = 0
    /// Field and description of each violation; or type, subject and description.
    var violations: [[String]] = []
    /// Of the whole google.rpc.Status. A replay has a few more.
    var detailsByteCount = 0

    static func == (one: Refused, other: Refused) -> Bool {
      (one.code, one.text, one.reason, one.domain) == (
        other.code, other.text, other.reason, other.domain
      ) && one.metadata == other.metadata && one.retryNanoseconds == other.retryNanoseconds
        && one.retryMilliseconds == other.retryMilliseconds && one.violations == other.violations
    }

    /// The same refusal, as a retry gets it.
    var replayed: Refused {
      var again = self
      again.metadata["replayed"] = "true"
      return again
    }
  }
}

final class Service {
  let clock = ManualClock()
  let store: StockStore
  let handler: HoldfastHandler
  let session: StoreSession
  private let response = Response()
  private let headers = RequestHeaderBlocks()
  private var nextCall: UInt64 = 1

  init(
    itemsMax: Int = 100_000, reservationsMax: Int = 100_000, secret: (UInt64, UInt64) = (1, 2),
    authorization: Authorization = Authorization(file: nil)
  ) {
    let limits = StoreLimits(
      linesPerReservation: 64, quantityMax: quantityMax, ttlNanosecondsMin: second,
      ttlNanosecondsDefault: 600 * second,
      holdNanosecondsMax: 24 * 3600 * second, retentionNanoseconds: 24 * 3600 * second,
      itemsMax: itemsMax, reservationsMax: reservationsMax)
    store = StockStore(limits: limits, clock: clock, secret: secret)
    session = store.makeSession()
    handler = HoldfastHandler(
      session: session, storeLimits: limits, serviceLimits: Self.limits,
      authorization: authorization)
  }

  static let limits = ServiceLimits(
    keyBytesMax: 64, skuBytesMax: 64, locationBytesMax: 64, reasonBytesMax: 256,
    callerBytesMax: 64, batchMax: 500, pageSizeDefault: 100)

  /// The number of the method with this name, or at this path.
  func method(_ name: String) throws -> Int {
    let path = Array(name.utf8)
    if let number = handler.method(atPath: path.span) { return number }
    return try #require(HoldfastHandler.methods.firstIndex { $0.method == name })
  }

  func call(_ name: String, _ message: Message, caller: String = "") throws -> Answer {
    try call(name, bytes: message.bytes, caller: Array(caller.utf8))
  }

  func call(
    _ name: String, bytes: [UInt8], caller: [UInt8] = [], id: CallID? = nil
  ) throws -> Answer {
    let method = try method(name)
    handler.beginTurn()
    response.begin()
    nextCall += 1
    let principal = try headers.with(caller: caller) {
      handler.start(method: method, headers: $0, response: response)
    }
    guard let principal else { return try Self.answer(in: response) }
    var context = CallContext(
      method: method, type: HoldfastHandler.methods[method].type, principal: principal)
    let completion = unsafe withUnsafeMutablePointer(to: &context) { context in
      let call = unsafe Call(id: id ?? CallID(rawValue: nextCall), context: context)
      guard HoldfastHandler.methods[method].isBatched else {
        return handler.handle(bytes.span, of: call, response: response)
      }
      return handleParts(of: bytes, call)
    }
    handler.endTurn()
    guard case .respond(let lsn) = completion else {
      throw Unexpected(description: "\(name) did not answer at once")
    }
    #expect(lsn <= handler.durableLSN)
    return try Self.answer(in: response)
  }

  /// A call of several messages and one response, each message in parts; `between` comes after each part.
  func gather(
    _ name: String, _ messages: [Message], caller: String = "", cancelled: Bool = false,
    between: () throws -> Void = {}
  ) throws -> Answer? {
    let method = try method(name)
    handler.beginTurn()
    response.begin()
    nextCall += 1
    let principal = try headers.with(caller: Array(caller.utf8)) {
      handler.start(method: method, headers: $0, response: response)
    }
    guard let principal else { return try Self.answer(in: response) }
    var context = CallContext(
      method: method, type: HoldfastHandler.methods[method].type, isBatched: true,
      principal: principal)
    return try unsafe withUnsafeMutablePointer(to: &context) { context in
      let call = unsafe Call(id: CallID(rawValue: nextCall), context: context)
      for message in messages {
        var part = MessagePart()
        var completion = Completion.more
        while completion == .more {
          response.begin()
          part.budget = partBudget
          completion = handler.handle(
            message.bytes.span, part: &part, of: call, response: response)
          handler.endTurn()
          try between()
          handler.beginTurn()
        }
        if case .respond = completion { return try Self.answer(in: response) }
        #expect(completion == .later)
      }
      if cancelled {
        handler.cancelled(call.id)
        return nil
      }
      response.begin()
      guard case .respond(let lsn) = handler.halfClosed(call, response: response) else {
        throw Unexpected(description: "\(name) did not answer its messages")
      }
      handler.endTurn()
      #expect(lsn <= handler.durableLSN)
      return try Self.answer(in: response)
    }
  }

  /// Requests' worth of work of one part of a batch.
  var partBudget = Int.max
  /// Parts that the last batch came in.
  private(set) var partCount = 0

  /// Each part comes in a turn of its own.
  private func handleParts(of bytes: [UInt8], _ call: Call) -> Completion {
    var part = MessagePart()
    partCount = 0
    while true {
      part.budget = partBudget
      handler.expectNothing()
      let completion = handler.handle(bytes.span, part: &part, of: call, response: response)
      partCount += 1
      if completion != .more { return completion }
      handler.endTurn()
      handler.beginTurn()
    }
  }

  /// The message of a call that must succeed.
  func ok(_ name: String, _ message: Message, caller: String = "") throws -> Fields {
    switch try call(name, message, caller: caller) {
    case .message(let fields): return fields
    case .failure(let refused): throw Unexpected(description: "\(name): \(refused)")
    }
  }

  /// The refusal of a call that must fail.
  func refused(_ name: String, _ message: Message, caller: String = "") throws -> Answer.Refused {
    switch try call(name, message, caller: caller) {
    case .message(let fields): throw Unexpected(description: "\(name) succeeded: \(fields)")
    case .failure(let refused): return refused
    }
  }

  struct Unexpected: Error, CustomStringConvertible { let description: String }

  /// Reads a response, and checks that it is well-formed.
  static func answer(in response: Response) throws -> Answer {
    guard case .failure(let code) = response.kind else {
      let content = response.message.withBytes { span in span.indices.map { span[$0] } }
      return .message(try #require(Fields(content), "the answer is no message"))
    }
    let fields = try Trailers.fields(of: response)
    #expect(fields["grpc-status"] == "\(code.rawValue)")
    let details = try Trailers.base64(fields["grpc-status-details-bin"] ?? "")
    var refused = Answer.Refused(
      code: code, text: try Trailers.percentDecoded(fields["grpc-message"] ?? ""))
    refused.detailsByteCount = details.count
    refused.retryMilliseconds = Int32(fields["grpc-retry-pushback-ms"] ?? "0") ?? -1
    let status = try #require(Fields(details), "the details are no google.rpc.Status")
    #expect(status.number(1) == Int64(code.rawValue))
    #expect(status.text(2) == refused.text)
    for any in status.messages(3) { try read(any, into: &refused) }
    #expect(!refused.reason.isEmpty && refused.domain == "holdfast", "no ErrorInfo")
    // The two ways to say when to try again say the same.
    #expect(refused.retryNanoseconds ?? 0 == Int64(refused.retryMilliseconds) * 1_000_000)
    return .failure(refused)
  }

  private static func read(_ any: Fields, into refused: inout Answer.Refused) throws {
    let value = try #require(any.message(2))
    switch any.text(1) {
    case "type.googleapis.com/google.rpc.ErrorInfo":
      #expect(refused.reason.isEmpty, "two ErrorInfos")
      refused.reason = value.text(1)
      refused.domain = value.text(2)
      for entry in value.messages(3) { refused.metadata[entry.text(1)] = entry.text(2) }
    case "type.googleapis.com/google.rpc.RetryInfo": refused.retryNanoseconds = value.time(1)
    case "type.googleapis.com/google.rpc.BadRequest":
      refused.violations = value.messages(1).map { [$0.text(1), $0.text(2)] }
    case "type.googleapis.com/google.rpc.PreconditionFailure":
      refused.violations = value.messages(1).map { [$0.text(1), $0.text(2), $0.text(3)] }
    default: Issue.record("unknown detail \(any.text(1))")
    }
  }
}

// MARK: Requests

/// A line of a reservation.
func line(_ sku: String, _ quantity: Int64, at location: String = "") -> Message {
  let line = Message().with(1, sku)
  return (location.isEmpty ? line : line.with(2, location)).with(3, quantity)
}

/// A limit of a Reserve.
func limit(_ subject: String, _ maxUnits: Int64) -> Message {
  Message().with(1, subject).with(2, maxUnits)
}

func duration(_ seconds: Int64, nanos: Int64 = 0) -> Message {
  Message().with(1, seconds).with(2, nanos)
}

func reserve(_ key: String, _ lines: [Message], ttl: Message? = nil) -> Message {
  let request = lines.reduce(Message().with(1, key)) { $0.with(2, $1) }
  return ttl.map { request.with(3, $0) } ?? request
}

/// Confirm, Release, Extend and GetReservation begin with the reservation's id.
func of(_ id: String) -> Message { Message().with(1, id) }

/// AdjustStock by `delta`, whatever the version.
func adjust(_ key: String, _ sku: String, by delta: Int64, at location: String = "") -> Message {
  Message().with(1, key).with(2, sku).with(3, location).with(4, delta).with(7, true)
    .with(9, "test")
}

func remove(_ key: String, _ sku: String) -> Message {
  Message().with(1, key).with(2, sku).with(5, "test")
}

/// AdjustStock with what it says of change, version and safety stock.
func adjustment(_ key: String, _ sku: String, _ rest: (Message) -> Message) -> Message {
  rest(Message().with(1, key).with(2, sku)).with(9, "test")
}

func stock(_ sku: String, at location: String = "") -> Message {
  Message().with(1, sku).with(2, location)
}

/// A StockLevel as on hand, held, safety stock, available, version.
func balances(_ level: Fields?) -> [Int64] { (3...7).map { level?.number($0) ?? -1 } }
