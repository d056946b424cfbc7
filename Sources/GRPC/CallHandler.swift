// The seam between the event loops and what they serve. The loop knows methods by number and messages by
// their bytes; the handler knows nothing of connections.

/// One method that a handler serves.
package struct MethodDescriptor: Sendable {
  /// Such as "holdfast.v1.ReservationService".
  package let service: String
  /// Such as "Reserve".
  package let method: String
  package let type: MethodType
  /// Its latency is kept as quantiles too, beside the histogram that every method has.
  package let hasLatencyQuantiles: Bool
  /// Each of its messages holds many requests: messages may be longer (`ServerLimits`), and are handled in
  /// parts (`CallHandler.handle(_:part:of:response:)`). Not server streaming.
  package let isBatched: Bool

  package init(
    service: String, method: String, type: MethodType, hasLatencyQuantiles: Bool = false,
    isBatched: Bool = false
  ) {
    self.service = service
    self.method = method
    self.type = type
    self.hasLatencyQuantiles = hasLatencyQuantiles
    self.isBatched = isBatched
  }

  /// The :path of its calls.
  package var path: String { "/\(service)/\(method)" }
}

/// Names a call that is still open on one loop; never means another call.
package struct CallID: Hashable, Sendable {
  package let rawValue: UInt64

  package init(rawValue: UInt64) { self.rawValue = rawValue }
}

/// One message, or the end, of a call's request: what the handler needs to know of the call.
@safe package struct Call {
  package let id: CallID
  // Lives with the stream, which outlasts every use of this.
  private let context: UnsafeMutablePointer<CallContext>

  /// - Safety: `context` must live until the handler has returned.
  @unsafe package init(id: CallID, context: UnsafeMutablePointer<CallContext>) {
    self.id = id
    unsafe self.context = context
  }

  package var method: Int { unsafe Int(context.pointee.method) }
  package var permissions: UInt32 { unsafe context.pointee.principal.permissions }

  /// The name of who calls; empty without one.
  /// - Safety: valid until the handler has returned.
  @unsafe package var caller: UnsafeBufferPointer<UInt8> {
    unsafe context.pointee.principal.unsafeName()
  }
}

/// What becomes of a call after a message or the end of its request.
package enum Completion: Equatable {
  /// The response object holds a message or a failure, which may be seen once the journal is durable up
  /// to `lsn`. It ends the call, unless it is a message of a call that streams responses.
  case respond(lsn: UInt64)
  /// Nothing is said now: later, through the sink, or with the next message.
  case later
  /// The call ends with status OK behind the messages that were sent.
  case end
  /// Of a message that is handled in parts: the response holds what this part added, and another part is
  /// left.
  case more
}

/// How far a message is handled that is handled in parts.
package struct MessagePart: BitwiseCopyable {
  /// Bytes of the message that are done; 0: it is to be begun.
  package var offset = 0
  /// The highest log sequence number that its response waits for.
  package var lsn: UInt64 = 0
  /// Requests' worth of work that is left until other calls have their turn. The handler takes it down.
  package var budget = 0

  package init() {}
}

/// Where responses go that are not made at once.
package protocol CallSink: AnyObject {
  /// Sends a message of an open call, or its failure. It may be seen once the journal is durable up to
  /// `lsn`.
  /// - Parameters:
  ///   - ends: the call ends with it; a failure always ends it.
  ///   - write: makes the response.
  func respond(
    to call: CallID, lsn: UInt64, ends: Bool, _ write: (Response) -> Void
  ) -> Delivery
}

/// What became of a response that was given to a sink.
package enum Delivery: Equatable {
  case taken
  /// Nothing was written: the peer reads too slowly. `CallHandler.resumed` says when to go on.
  case full
  /// The call is over.
  case gone
}

/// Serves calls. One instance per loop, used on the loop's thread only.
package protocol CallHandler: AnyObject {
  /// The methods, by number. The same for all instances.
  static var methods: [MethodDescriptor] { get }

  /// The header fields that `start` wants to see: two at most.
  static var metadata: [StaticString] { get }

  /// The number of the method at `path`; nil where there is none.
  func method(atPath path: Span<UInt8>) -> Int?

  /// Calls of `method` come with these header fields: who calls? Asked once for each header block; the
  /// answer is kept with the block until `authenticationGeneration` changes. nil: the call is failed
  /// with what was written into `response`.
  func start(method: Int, headers: RequestHeaders, response: Response) -> Principal?

  /// Changes when what `start` said before holds no longer, and every header block must be asked about
  /// again.
  var authenticationGeneration: UInt64 { get }

  /// `authenticationGeneration` has changed, and a call of `method` is still open that began before: who
  /// calls now, where `start` said `principal` then? nil: the call is failed with what was written into
  /// `response`. Comes between `beginTurn` and `endTurn`.
  func renew(_ principal: Principal, method: Int, response: Response) -> Principal?

  /// An iteration of the loop begins: everything that will be handled has been received. Comes from time
  /// to time without calls too, so that what falls due is not left lying.
  func beginTurn()

  /// This message of a unary call is handled after some others in this iteration: what it will look up can
  /// be fetched now. A hint: the message may not come, and may come unannounced.
  func expect(_ message: Span<UInt8>, of call: Call)

  /// Handles one message of a request. Nothing borrowed may be kept.
  func handle(_ message: Span<UInt8>, of call: Call, response: Response) -> Completion

  /// Handles the next part of a message of a batched method: requests until `part.budget` is spent, one at
  /// least. What they add to the response goes behind what `response.message` holds. A failure, of the
  /// first part alone, is the call's, and what `response.message` got meanwhile does not count. Of a call that
  /// streams requests and has one response, messages add nothing: the last part of each is `.later`, any part may
  /// fail, and `halfClosed` responds.
  func handle(
    _ message: Span<UInt8>, part: inout MessagePart, of call: Call, response: Response
  ) -> Completion

  /// Messages of batched methods that were expected may have moved, or do not come.
  func expectNothing()

  /// The request of a call that streams requests is whole.
  func halfClosed(_ call: Call, response: Response) -> Completion

  /// Everything received was handled. Asks for durability of all of it, without waiting.
  func endTurn()

  /// The iteration has left housekeeping for the next, which should come within a millisecond.
  var hasBacklog: Bool { get }

  /// Responses up to this log sequence number may be seen.
  var durableLSN: UInt64 { get }

  /// Hands over late responses; called once an iteration, after `endTurn`.
  func deliver(to sink: any CallSink)

  /// A call whose sink was full has room again.
  func resumed(_ call: CallID)

  /// An open call ended without its response: the client went away, or its deadline passed.
  func cancelled(_ call: CallID)

  /// The server begins to shut down.
  func drain()

  /// Calls `take`, once at most, with what a message of a unary call is about: the first SKU in it, else the
  /// reservation's id. The bytes are the client's, and may be anything. For the log of slow calls.
  func describe(
    _ message: Span<UInt8>, method: Int, _ take: (CallSubject, Span<UInt8>) -> Void)

  /// Makes the failure of a call that the loop rejects.
  func reject(_ rejection: Rejection, response: Response)
}

/// What one call is about, for a person who reads of it.
package enum CallSubject: Sendable, BitwiseCopyable {
  case sku
  case reservation
}

/// A handler of which nobody asks what its calls are about.
extension CallHandler {
  package func describe(
    _ message: Span<UInt8>, method: Int, _ take: (CallSubject, Span<UInt8>) -> Void
  ) {}
}

/// A handler without batched methods.
extension CallHandler {
  package func handle(
    _ message: Span<UInt8>, part: inout MessagePart, of call: Call, response: Response
  ) -> Completion {
    preconditionFailure("no method is batched")
  }

  package func expectNothing() {}
}
