// The server that decides orders: what the intake asks of a connection to it, and the connection that there is.
package import Client
internal import GRPC

/// What became of a BatchReserve.
package enum BatchEnd {
  /// A BatchReserveResponse, or what should be one.
  case response([UInt8])
  case failure(CallFailure)
}

/// A connection to a server. Used by one thread, which waits in `receive` alone.
package protocol OrderServer: AnyObject {
  /// The server has begun to speak.
  var isReady: Bool { get }

  /// Begins a BatchReserve with this BatchReserveRequest. It leaves with the next `receive`.
  /// - Returns: its name on this connection.
  func send(_ request: [UInt8]) -> UInt64

  /// Waits for something to happen, for at most so long.
  /// - Parameter take: gets each call that has ended.
  /// - Throws: where the connection is of no more use.
  func receive(
    milliseconds: Int32, _ take: (UInt64, BatchEnd) -> Void
  ) throws(CallFailure)
}

/// BatchReserve on one connection.
package final class ServiceOrderServer: OrderServer {
  private static let methods = [
    ClientMethod(path: "/holdfast.v1.ReservationService/BatchReserve", type: .unary)
  ]
  /// Calls at once: one for each partition, and the first.
  private static let callsMax = 512
  /// For the server to decide a batch.
  private static let timeoutNanoseconds: Int64 = 10_000_000_000

  private let client: ServiceClient
  private let address: String

  /// Makes no connection yet: that comes with `receive`.
  package init(_ target: ServiceTarget, program: String) throws(CallFailure) {
    address = target.description
    do throws(ServiceClientError) {
      client = try ServiceClient(
        target, methods: Self.methods, program: program, callsMax: Self.callsMax,
        timeoutNanoseconds: Self.timeoutNanoseconds)
    } catch {
      throw CallFailure(.connection(error.kind), error.description, server: target.description)
    }
  }

  package var isReady: Bool { client.isReady }

  package func send(_ request: [UInt8]) -> UInt64 { client.start(0, request) }

  package func receive(
    milliseconds: Int32, _ take: (UInt64, BatchEnd) -> Void
  ) throws(CallFailure) {
    do throws(ServiceClientError) {
      _ = try unsafe client.wait(milliseconds: milliseconds) { _, _ in
      } end: { end in
        let isGood = end.isAnswered && end.status == .ok
        take(
          end.callID,
          isGood ? .response(end.message) : .failure(CallFailure(end, server: address)))
      }
    } catch {
      throw CallFailure(.connection(error.kind), error.description, server: address)
    }
  }
}
