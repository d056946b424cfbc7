import GRPCCore
import HoldfastV1

/// The events of one order, from when the stream stands on.
struct OrderEvents {
  struct NoEvent: Error {}

  private static let longestWait = Duration.seconds(30)

  private let follower: Task<Void, Never>
  private let seen: AsyncThrowingStream<Holdfast_V1_Event?, any Error>.Continuation
  private var iterator: AsyncThrowingStream<Holdfast_V1_Event?, any Error>.Iterator

  /// Returns once the stream stands.
  init(
    _ service: Holdfast_V1_EventService.Client<some ClientTransport>, metadata: Metadata,
    order: String
  ) async throws {
    let (stream, continuation) = AsyncThrowingStream.makeStream(of: Holdfast_V1_Event?.self)
    iterator = stream.makeAsyncIterator()
    seen = continuation
    follower = Task {
      await Self.follow(service, metadata: metadata, order: order, into: continuation)
    }
    do {
      _ = try await next()
    } catch {
      follower.cancel()
      throw error
    }
  }

  func stop() { follower.cancel() }

  /// Goes on with the resume token where the stream breaks.
  private static func follow(
    _ service: Holdfast_V1_EventService.Client<some ClientTransport>, metadata: Metadata,
    order: String,
    into seen: AsyncThrowingStream<Holdfast_V1_Event?, any Error>.Continuation
  ) async {
    var options = CallOptions.defaults
    options.waitForReady = true
    var token: String?
    while !Task.isCancelled {
      let request = Holdfast_V1_WatchRequest.with {
        $0.referencePrefix = order
        $0.kinds = [.held, .confirmed, .released, .expired, .refused]
        if let token { $0.resumeToken = token }
      }
      do {
        token = try await service.watch(request, metadata: metadata, options: options) {
          [token] response in
          var token = token
          do {
            for try await message in response.messages {
              if token == nil { seen.yield(nil) }
              token = message.resumeToken
              // The prefix order-1 is that of order-10 as well.
              for event in message.events where event.reference == order { seen.yield(event) }
            }
          } catch let error as RPCError where error.code == .unavailable {}
          return token
        }
      } catch let error as RPCError where error.code != .unavailable {
        seen.finish(throwing: Refused("Watch", error))
        return
      } catch {}
      try? await Task.sleep(for: .milliseconds(200))
    }
  }

  /// nil first; then an event.
  private mutating func next() async throws -> Holdfast_V1_Event? {
    let seen = seen
    let watchdog = Task {
      try await Task.sleep(for: Self.longestWait)
      seen.finish(throwing: NoEvent())
    }
    defer { watchdog.cancel() }
    guard let found = try await iterator.next() else { throw NoEvent() }
    return found
  }

  mutating func printUntil(_ last: Holdfast_V1_EventKind) async throws {
    while let event = try await next() {
      let lines = event.lines.map { " \($0.quantity) \($0.sku)" }.joined()
      say("event \(event.kind.word)\(lines)")
      if event.kind == last { return }
    }
  }
}

extension Holdfast_V1_EventKind {
  fileprivate var word: String {
    switch self {
    case .held: "HELD"
    case .confirmed: "CONFIRMED"
    case .released: "RELEASED"
    case .expired: "EXPIRED"
    case .refused: "REFUSED"
    default: "\(rawValue)"
    }
  }
}
