// The calls of one worker: what is to be sent, and what is in flight.
internal import LoadHistory

/// One send that is to be made.
struct SendTask: BitwiseCopyable {
  let operation: Int
  let method: Method
  /// How often the call was sent again because its outcome was unknown.
  var retries: UInt8 = 0
  /// Its answer leads the operation on: the first send, or its retry. False for duplicates.
  var leads = true
  /// Of a Reserve: goes out as a call of its own, whatever the others do.
  var isAlone = false
  /// Of a follow-up: when it was to be sent.
  var dueNanoseconds: Int64 = 0

  var isFirst: Bool { leads && retries == 0 }
}

/// A call in flight, or a message of many Reserves.
struct InFlightCall: BitwiseCopyable {
  let task: SendTask
  /// What its latency counts from, and when it was sent.
  let sinceNanoseconds: Int64
  let sentNanoseconds: Int64
  /// Where it is in flight; stream 0: nowhere.
  let connection: Int32
  var stream: UInt32

  /// One of the Reserves that a message carries, as a call.
  func of(_ member: MessageMember) -> InFlightCall {
    InFlightCall(
      task: member.task, sinceNanoseconds: member.sinceNanoseconds,
      sentNanoseconds: sentNanoseconds, connection: connection, stream: stream)
  }

  fileprivate static let none = InFlightCall(
    task: SendTask(operation: 0, method: .reserve), sinceNanoseconds: 0, sentNanoseconds: 0,
    connection: 0, stream: 0)
}

/// Calls in flight by number; the number goes with the request and comes back with its response. There
/// are as many as all connections have streams.
struct CallTable {
  private var calls: [InFlightCall]
  private var free: [Int]

  init(capacity: Int) {
    calls = Array(repeating: .none, count: capacity)
    free = Array((0..<capacity).reversed())
  }

  var isEmpty: Bool { free.count == calls.count }

  /// What `add` will call the next one; nil where every number is in use.
  var nextNumber: Int? { free.last }

  /// Adds a call as `nextNumber`, which must not be nil.
  mutating func add(_ call: InFlightCall) {
    precondition(call.stream != 0, "a call in flight has a stream")
    guard let number = free.popLast() else { preconditionFailure("the table is full") }
    calls[number] = call
  }

  /// - Parameter number: of a call that is in flight, or was.
  subscript(number: Int) -> InFlightCall { calls[number] }

  /// Takes the call out; its number may then be another's.
  mutating func remove(_ number: Int) -> InFlightCall {
    let call = calls[number]
    precondition(call.stream != 0, "the call is not in flight")
    calls[number].stream = 0
    free.append(number)
    return call
  }

  /// Of all calls that are or could be in flight.
  var numbers: Range<Int> { calls.indices }

  func isInFlight(_ number: Int) -> Bool { calls[number].stream != 0 }
}
