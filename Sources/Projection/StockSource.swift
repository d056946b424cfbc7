// The server, as the projection sees it, and what can go wrong on both sides.
package import PostgresLog

/// What the server is asked that it answers once.
package enum StockMethod: Sendable {
  /// StockService.ListStock.
  case listStock
  /// ReservationService.ListReservations.
  case listReservations
}

/// A message of the server's.
@safe package enum StockMessage {
  /// A WatchResponse of the watch.
  case events(UnsafeRawBufferPointer)
  /// The first WatchResponse of a watch from now, and when it was asked for, in nanoseconds of the wall clock:
  /// all that was decided until then is before its token.
  case head(UnsafeRawBufferPointer, asked: Int64)
}

/// A connection to a server. Used by one thread.
package protocol StockSource: AnyObject {
  /// Begins a watch, in the place of the one before.
  func watch(_ request: [UInt8])
  /// Ends the watch; nothing is heard of it any more.
  func endWatch()
  /// Asks where the log ends, unless it was asked and has not answered.
  func askHead(_ request: [UInt8])
  /// Waits for messages, for at most so long.
  func receive(
    milliseconds: Int32, _ body: (StockMessage) -> Void
  ) throws(ProjectionError)
  /// Waits for the answer to a call, whose bytes it returns.
  func ask(_ method: StockMethod, _ request: [UInt8]) throws(ProjectionError) -> [UInt8]
}

/// Why the tables do not go on.
package enum ProjectionError: Error {
  /// Goes on by itself once this is put right.
  case database(PostgresError)
  /// Likewise; in words for an operator.
  case server(String)
  /// Somebody else has changed the tables meanwhile.
  case raced
  /// The server cannot go on from where the tables are.
  /// - Parameter isForeign: its history is another one, and its events have nothing to do with those that are there.
  case beginAgain(String, isForeign: Bool)
  /// Only a person can put it right.
  case unsuitable(String)
  /// It was told to stop.
  case stopped
}

extension ProjectionError: CustomStringConvertible {
  package var description: String {
    switch self {
    case .database(let error): "the database: \(error)"
    case .server(let text): "the server: \(text)"
    case .raced: "another holdfast project writes the same tables"
    case .beginAgain(let text, _): "the server: \(text)"
    case .unsuitable(let text): text
    case .stopped: "stopped"
    }
  }
}
