internal import Bytes
internal import GRPC

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
  private var watchers: [CallID: String] = [:]
  private var isDraining = false
  private var hasNews = false

  init(services: Set<String>) { self.services = services }

  /// nil for a service that the server does not have; "" is the server as a whole.
  func status(of service: String) -> Status? {
    guard service.isEmpty || services.contains(service) else { return nil }
    return isDraining ? .notServing : .serving
  }

  /// Begins a watch; nil where there are too many.
  func watch(_ service: String, _ call: CallID) -> Status? {
    guard watchers.count < Self.watchersMax else { return nil }
    watchers[call] = service
    return status(of: service) ?? .serviceUnknown
  }

  func cancelled(_ call: CallID) {
    // Asked of every call that is cut short, nearly never with watchers about.
    if !watchers.isEmpty { watchers[call] = nil }
  }

  func drain() {
    isDraining = true
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
