// One connection on which EventService.Watch is called, and its messages as they come.
internal import GRPC
internal import LoadHistory
internal import LoadReport
internal import Posix

/// Why a watch came to its end.
enum FeedEnd: Error, CustomStringConvertible {
  /// Another try may go on from the last token.
  case broken(String)
  /// The server says that it does not go on.
  case refused(String)

  var description: String {
    switch self {
    case .broken(let reason), .refused(let reason): reason
    }
  }
}

struct FeedStream: ~Copyable {
  private static let method = ClientMethod(
    path: "/holdfast.v1.EventService/Watch", type: .serverStreaming)
  /// The server's longest silence; a connection that is silent for so much longer is dead.
  private static let heartbeatSeconds: UInt64 = 1
  private static let silenceNanoseconds: Int64 = 5_000_000_000

  private let poller: Poller
  private var connection: LoadConnection
  private let buffer = ReceiveBuffer()
  private let start: FeedStart
  private var heardNanoseconds: Int64

  private init(
    poller: consuming Poller, connection: consuming LoadConnection, from start: FeedStart
  ) {
    self.poller = poller
    self.connection = connection
    self.start = start
    heardNanoseconds = SystemClock.monotonicNanoseconds()
  }

  /// Starts connecting.
  /// - Parameter start: where the watch is to begin.
  static func connect(to target: Endpoint, from start: FeedStart) throws(FeedEnd) -> FeedStream {
    do throws(LoadError) {
      let poller = try orFail("epoll") { () throws(Errno) in try Poller() }
      let connection = try LoadConnection.connect(
        to: target, methods: [method], callsMaximum: 1, poller: poller, token: 0)
      return FeedStream(poller: poller, connection: connection, from: start)
    } catch {
      throw .broken("\(error)")
    }
  }

  /// One pass: waits, sends, receives. Calls `take` with each message that came.
  mutating func turn(_ take: (Span<UInt8>) -> Void) throws(FeedEnd) {
    let count: Int
    do { count = try poller.wait(timeoutMilliseconds: 50) } catch {
      throw .broken("epoll: \(error)")
    }
    let now = SystemClock.monotonicNanoseconds()
    if count > 0 {
      let event = poller.event(at: 0)
      if event.isWritable || event.isHungUp { connection.becameWritable(poller) }
      if event.isReadable || event.isHungUp, connection.receive(buffer) {
        heardNanoseconds = now
        for message in connection.calls.messages {
          connection.calls.withMessage(message, take)
        }
        try lookForEnd()
        connection.calls.forgetResponses()
      }
    }
    ask()
    connection.flush(poller)
    if let reason = connection.lostReason { throw .broken(reason) }
    if now - heardNanoseconds > Self.silenceNanoseconds {
      throw .broken("nothing has come for \(Self.silenceNanoseconds / 1_000_000_000) s")
    }
  }

  /// Asks for the events, once the server has said hello.
  private mutating func ask() {
    guard connection.calls.isReady, connection.calls.openCalls == 0 else { return }
    var message = MessageBuffer()
    message.writeWatch(start, heartbeatSeconds: Self.heartbeatSeconds)
    message.withSpan { _ = connection.calls.start(0, callID: 0, message: $0) }
  }

  private func lookForEnd() throws(FeedEnd) {
    guard let response = connection.calls.responses.first else { return }
    guard response.outcome == .answered else { throw .broken("the stream broke off") }
    let text = connection.calls.statusText(of: response)
    switch response.status {
    case .ok, .unavailable, .aborted: throw .broken(text)
    default: throw .refused("\(grpcCodeNames[response.status.rawValue]): \(text)")
    }
  }
}
