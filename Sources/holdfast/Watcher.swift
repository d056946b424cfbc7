// What a server that runs looks at every second: files that others replace, and notes of the loops.
internal import Logging
internal import Posix
internal import Server
internal import Synchronization

/// The files that callers and certificates come from, and the log lines that loops don't write themselves.
final class Watcher: Sendable {
  let tokens: TokenKeeper?
  let certificate: CertificateKeeper?
  let notices = ConnectionNotices()
  /// nil: no call is slow.
  let slowCalls: SlowCalls?
  private let logger: Logger

  /// Reads the files.
  init(_ settings: Settings, _ logger: Logger) throws(CommandFailure) {
    tokens = try TokenKeeper.start(settings, logger)
    certificate = try CertificateKeeper.start(settings, logger)
    self.logger = logger
    slowCalls =
      settings.slowCallNanoseconds > 0
      ? SlowCalls(thresholdNanoseconds: settings.slowCallNanoseconds) : nil
  }

  /// Looks every second from now on, until the process ends: there is nothing to be put away.
  func start() throws(CommandFailure) {
    do throws(Errno) {
      _ = try Thread(name: "watcher") { self.run() }
    } catch {
      throw CommandFailure(description: "cannot start the thread that watches files: \(error)")
    }
  }

  /// For SIGHUP.
  func reload() {
    guard tokens != nil || certificate != nil else {
      return logger.notice("SIGHUP: there is nothing to be read again; going on")
    }
    logger.notice("SIGHUP: reading tokens and certificates again")
    tokens?.reload()
    certificate?.reload()
  }

  private func run() {
    guard let pause = try? Wakeup() else { return }
    var told = [Int64](repeating: .min, count: ConnectionNotice.Kind.allCases.count)
    while true {
      pause.wait(nanoseconds: Limits.filesWatchedNanoseconds)
      look(&told)
    }
  }

  /// - Parameter told: when each kind of notice was told last.
  // Not put into the loop: as one large loop it takes the optimizer minutes.
  @inline(never)
  private func look(_ told: inout [Int64]) {
    tokens?.look()
    certificate?.look()
    if let slowCalls { SlowCallLog.tell(slowCalls, logger) }
    let now = SystemClock.monotonicNanoseconds()
    for notice in notices.take(where: { told[$0.rawValue] <= now - Limits.noticeNanoseconds }) {
      told[notice.kind.rawValue] = now
      tell(notice)
    }
  }

  @inline(never)
  private func tell(_ notice: ConnectionNotice) {
    let text: Logger.Message =
      switch notice.kind {
      case .plaintextOnTLS: "a plaintext client came to this port, which speaks TLS"
      case .tlsOnPlaintext: "a TLS client came to this port, which speaks plaintext: see --tls-cert"
      case .handshakeFailed: "a TLS handshake failed"
      case .proxyHeader:
        "a connection began without a header of the PROXY protocol, version 2: see --proxy-protocol"
      }
    var metadata: Logger.Metadata = [
      "peer": "\(notice.peer.text)", "times": .stringConvertible(notice.count),
    ]
    if let failure = notice.failure { metadata["error"] = "\(failure)" }
    logger.warning(text, metadata: metadata)
  }
}
