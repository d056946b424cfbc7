internal import Bytes
internal import GRPC
internal import StockStore

/// grpc.health.v1 on one loop: the server's state, and the watchers that want to hear of its change.
final class HealthService {
  /// HealthCheckResponse.ServingStatus.
  enum Status: UInt8 {
    case serving = 1
    case notServing = 2
    case serviceUnknown = 3
  }

  /// A watcher costs an open stream; a loop has no use for more.
  private static let watchersMax = 10_000

  private let services: Set<String>
  private let errors: ErrorReplies
  private var watchers: [CallID: String] = [:]
  private var isServing: Bool
  /// A service with a state of its own, and whether it serves.
  private let apart: String?
  private var isApartServing = false
  private var hasNews = false

  /// - Parameters:
  ///   - isServing: until `drain`; false of a standby, which never does.
  ///   - apart: a service that serves while `setApart` says so; nil: there is none.
  init(
    services: Set<String>, errors: ErrorReplies, isServing: Bool = true, apart: String? = nil
  ) {
    self.apart = apart
    self.services = services
    self.errors = errors
    self.isServing = isServing
  }

  /// Answers a Check.
  func check(_ message: Span<UInt8>, _ response: Response) {
    guard let service = Self.service(message) else { return errors.malformed(response: response) }
    guard let status = status(of: service) else { return errors.unknownService(response: response) }
    response.message.put(status)
  }

  /// Answers a Watch with its first message.
  func watch(_ message: Span<UInt8>, _ call: CallID, _ response: Response) {
    guard let service = Self.service(message) else { return errors.malformed(response: response) }
    guard let status = watch(service, call) else {
      return errors.tooManyWatches(response: response)
    }
    response.message.put(status)
  }

  /// HealthCheckRequest: service = 1. nil where it is malformed.
  private static func service(_ message: Span<UInt8>) -> String? {
    var reader = unsafe ProtoReader(message.borrowed, refusesUnknown: false)
    var bytes = BorrowedBytes.empty
    while let tag = reader.next() {
      switch tag {
      case .bytes(1): bytes = reader.bytes()
      default: reader.other(tag, known: 1...1)
      }
    }
    guard reader.isWhole else { return nil }
    return unsafe String(validating: bytes.pointer, as: UTF8.self)
  }

  /// nil for a service that the server does not have; "" is the server as a whole.
  private func status(of service: String) -> Status? {
    if service == apart { return isApartServing ? .serving : .notServing }
    guard service.isEmpty || services.contains(service) else { return nil }
    return isServing ? .serving : .notServing
  }

  /// Begins a watch; nil where there are too many.
  private func watch(_ service: String, _ call: CallID) -> Status? {
    guard watchers.count < Self.watchersMax else { return nil }
    watchers[call] = service
    return status(of: service) ?? .serviceUnknown
  }

  func cancelled(_ call: CallID) {
    // Asked of every call that is cut short, nearly never with watchers about.
    if !watchers.isEmpty { watchers[call] = nil }
  }

  func drain() {
    if isServing { hasNews = true }
    isServing = false
    setApart(false)
  }

  /// Whether the service with a state of its own serves now.
  func setApart(_ isServing: Bool) {
    if isServing == isApartServing { return }
    isApartServing = isServing
    hasNews = true
  }

  /// Tells the watchers. A service that is unknown stays so.
  func deliver(to sink: any CallSink) {
    guard hasNews else { return }
    hasNews = false
    for (call, service) in watchers {
      guard let status = status(of: service) else { continue }
      // One whose client does not read has missed nothing that the end of the call does not say.
      _ = sink.respond(to: call, lsn: 0, ends: false) { $0.message.put(status) }
    }
  }
}

extension ProtoWriter {
  /// A HealthCheckResponse: status = 1.
  func put(_ status: HealthService.Status) { field(1, UInt64(status.rawValue)) }
}
