// The seam between the event loops and what they serve. The loop knows methods by number, messages by
// their bytes, and answers by Reply; the handler knows nothing of connections.

/// How many messages go which way.
package enum MethodType: Sendable {
  case unary
  case serverStreaming
  case bidirectional
}

/// One method that a handler serves.
package struct MethodDescriptor: Sendable {
  /// Such as "holdfast.v1.ReservationService".
  package let service: String
  /// Such as "Reserve".
  package let method: String
  package let type: MethodType
  /// Its latency counts as the product's own (holdfast_reservation_latency_seconds).
  package let isReservation: Bool

  package init(service: String, method: String, type: MethodType, isReservation: Bool = false) {
    self.service = service
    self.method = method
    self.type = type
    self.isReservation = isReservation
  }

  /// The :path of its calls.
  package var path: String { "/\(service)/\(method)" }
}

/// Names a call that is still open on one loop; never means another call.
package struct CallID: Hashable, Sendable {
  package let rawValue: UInt64

  package init(rawValue: UInt64) { self.rawValue = rawValue }
}

/// What became of a message that was handed over.
package enum Completion {
  /// The reply is made; it may be sent once the journal is durable up to `lsn`. Ends a unary call.
  case reply(lsn: UInt64)
  /// The answer comes later, through the sink given to `deliver`.
  case later
}

/// Where late answers go.
package protocol CallSink: AnyObject {
  /// Sends a message of an open call, or its failure, and ends the call where `ends` (a failure always
  /// does). Ignored where the call is gone.
  func send(_ reply: Reply, to call: CallID, ends: Bool)
}

/// Serves calls. One instance per loop, used on the loop's thread only.
package protocol CallHandler: AnyObject {
  /// The methods, by number. The same for all instances.
  static var methods: [MethodDescriptor] { get }

  /// The number of the method at `path`; nil where there is none.
  func method(atPath path: Span<UInt8>) -> Int?

  /// A turn of the loop begins: everything that will be handled has been received. Comes from time to
  /// time without calls too, so that what falls due is not left lying.
  func beginTurn()

  /// Handles one message. `caller` is the value of the holdfast-caller header, empty without one.
  /// Nothing borrowed may be kept.
  func handle(
    method: Int, message: Span<UInt8>, caller: Span<UInt8>, call: CallID, reply: Reply
  ) -> Completion

  /// Everything received was handled. Asks for durability of all of it, without waiting.
  func endTurn()

  /// Replies up to this log sequence number may be sent.
  var durableLSN: UInt64 { get }

  /// Hands over late answers; called once a turn, after `endTurn`.
  func deliver(to sink: any CallSink)

  /// An open call ended without its answer: the client went away or its deadline passed.
  func cancelled(_ call: CallID)

  /// The server begins to shut down.
  func drain()

  /// Makes the failure of a call that the loop rejects.
  func reject(_ rejection: Rejection, reply: Reply)
}
