// Where orders come from: the queues of all, or that of the suspects.
internal import Messaging

/// What is read on a connection to the broker.
///
/// An order may be what ends the intake, whatever the reason: the system takes a process away that needs too much memory,
/// a mistake of ours ends it. The broker counts how often it has delivered an order and got no answer, but it counts for
/// all that were in the intake's hand. So the count alone says nothing of one order: it makes a suspect. Suspects are not
/// looked at, but moved to a queue of their own, from which one is delivered at a time, while nothing else is in hand. There
/// the count is of that order alone: whichever comes too often is the culprit, and all others are decided as ever.
final class OrderSources {
  /// What is done with deliveries.
  enum Mode {
    /// All queues are read.
    case all
    /// There are suspects: those that come are moved, and nothing else is looked at until there is a new connection.
    case moving
    /// The suspects' queue alone is read, one by one.
    case alone
  }

  private let options: IntakeOptions
  /// nil: this broker does not count.
  let suspects: String?
  private(set) var mode = Mode.all
  /// The suspects' queue is there.
  private(set) var canMove = false
  private(set) var isReading = false
  /// Suspects that waited when this connection was made.
  private(set) var waiting = 0
  /// One has come on this connection, or none did on the last: another intake has them.
  private var hasCome = false
  private var areOthers = false

  init(_ options: IntakeOptions, address: BrokerAddress) {
    self.options = options
    suspects = if case .amqp = address { options.suspects } else { nil }
  }

  /// Prepares a connection that was made just now, and reads from all queues unless there are suspects.
  func begin(_ connection: any BrokerConnection) throws(BrokerError) {
    if options.declares {
      try connection.declare(options.declarations(hasQueues: suspects != nil))
    }
    var depth: Int?
    if let suspects { depth = try connection.depth(of: suspects) }
    canMove = depth != nil
    waiting = depth ?? 0
    mode = waiting > 0 && !areOthers ? .alone : .all
    isReading = mode == .all
    (hasCome, areOthers) = (false, false)
    if mode == .all {
      try connection.consume(options.sources, prefetch: options.prefetch, group: options.group)
    }
  }

  /// Reads the suspects. Not before a server can decide: what ends meanwhile would count against the one in hand.
  func readSuspects(_ connection: any BrokerConnection) throws(BrokerError) {
    guard let suspects else { return }
    isReading = true
    try connection.consume([.single(suspects)], prefetch: 1, group: options.group)
  }

  /// There are suspects.
  func move() { mode = .moving }

  /// A suspect has come on this connection.
  func noteSuspect() { hasCome = true }

  /// No more suspects come on this connection. Where none has, another intake tries them: this one goes on with orders.
  func endReading() { areOthers = !hasCome }
}
