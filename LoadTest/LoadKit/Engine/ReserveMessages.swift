// Reserves that go out many in a message (BatchReserve, ReserveStream): which message has which of them. Results
// come in the order of the requests, so what is kept of a message is the list of what it asked for.
internal import LoadHistory

/// One Reserve of a message.
struct MessageMember: BitwiseCopyable {
  let task: SendTask
  /// What its latency counts from.
  let sinceNanoseconds: Int64
}

struct ReserveMessages: ~Copyable {
  /// The method that carries them; nil where every Reserve is a call of its own.
  let method: Method?
  /// Reserves of a message, at most.
  private let membersMaximum: Int
  /// No request of a message has more bytes.
  private let requestMaximum: Int
  /// The message under construction, and what it asks for.
  private(set) var body = MessageBuffer()
  private var collected: [MessageMember] = []
  /// Of the messages in flight, by call number.
  private var inFlight: [[MessageMember]]
  /// Of a ReserveStream, by connection: the messages that are not answered, in the order of their sends.
  private var unanswered: [Queue<Int>]
  /// What the last message was answered.
  var results: [ReserveResult] = []

  /// Longest message of these methods, by the API.
  static let bytesMaximum = 1 << 20

  /// - Parameters:
  ///   - requestMaximum: no request has more bytes.
  ///   - calls: how many calls can be in flight.
  init(_ workload: Workload, requestMaximum: Int, connections: Int, calls: Int) {
    method = workload.api.method
    membersMaximum = workload.batch
    // Behind its tag and length.
    self.requestMaximum = requestMaximum + 8
    inFlight = Array(repeating: [], count: method == nil ? 0 : calls)
    unanswered = Array(repeating: Queue(), count: connections)
  }

  // MARK: Sending

  /// Whether another request fits the message under construction.
  var hasRoom: Bool {
    collected.count < membersMaximum
      && body.count + requestMaximum <= ReserveMessages.bytesMaximum
  }

  /// What the message under construction asks for.
  var members: [MessageMember] { collected }

  mutating func begin() {
    body.removeAll()
    collected.removeAll(keepingCapacity: true)
  }

  /// Adds a request to the message under construction.
  mutating func add(_ member: MessageMember, _ request: borrowing MessageBuffer) {
    body.appendField(1, message: request)
    collected.append(member)
  }

  /// The message has left as the call of this number.
  mutating func sent(_ number: Int, by connection: Int) {
    swap(&inFlight[number], &collected)
    if method == .reserveStream { unanswered[connection].append(number) }
  }

  // MARK: Answers

  /// The message of the connection's ReserveStream that is answered next; nil where all are.
  mutating func popUnanswered(_ connection: Int) -> Int? { unanswered[connection].popFirst() }

  /// What the message of this number asked for. It is in flight no more.
  mutating func take(_ number: Int) -> [MessageMember] {
    var members: [MessageMember] = []
    swap(&members, &inFlight[number])
    return members
  }
}
