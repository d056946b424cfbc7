// The certificate of a server that runs.
internal import FoundationEssentials
internal import Logging
internal import Metrics
internal import Posix
internal import Synchronization

/// Reads the TLS files of `serve`, and says in the log what became of each change.
final class CertificateKeeper: Sendable {
  /// For calls.
  let calls: TLSServerContext
  /// For the admin pages; nil: those are served in plain text. Who may see them is not a matter of
  /// certificates: scrapers and probes have none.
  let admin: TLSServerContext?
  private let files: TLSFiles
  private let logger: Logger
  private let state: Mutex<State>

  private struct State {
    var watch: TLSFilesWatch
    /// The last reload failed, and the log does not say so yet: a key and its certificate are replaced one
    /// after the other.
    var isFailureUntold = false
  }

  /// nil where there is no TLS.
  static func start(
    _ settings: Settings, _ logger: Logger
  ) throws(CommandFailure) -> CertificateKeeper? {
    guard let files = settings.tls else { return nil }
    do throws(TLSFileError) {
      return try CertificateKeeper(files, servesAdmin: settings.adminTLS, logger)
    } catch {
      throw CommandFailure(description: "--tls-cert, --tls-key, --tls-client-ca: \(error)")
    }
  }

  private init(_ files: TLSFiles, servesAdmin: Bool, _ logger: Logger) throws(TLSFileError) {
    self.files = files
    self.logger = logger
    state = Mutex(State(watch: TLSFilesWatch(files)))
    calls = try TLSServerContext(files)
    let adminFiles = TLSFiles(certificate: files.certificate, key: files.key)
    admin = servesAdmin ? try TLSServerContext(adminFiles, speaking: .http1) : nil
    tellExpiry("read the certificate")
  }

  /// For SIGHUP: reads the files even where they look the same.
  func reload() {
    state.withLock { state in
      _ = state.watch.hasChanged()
      state.isFailureUntold = false
      if let failure = read() { warn(failure) }
    }
  }

  /// To be called about once a second.
  func look() {
    calls.rotateTicketKeys()
    admin?.rotateTicketKeys()
    state.withLock { state in
      let hasChanged = state.watch.hasChanged()
      guard hasChanged || state.isFailureUntold else { return }
      guard let failure = read() else {
        state.isFailureUntold = false
        return
      }
      // Told once it has lasted for a second.
      if state.isFailureUntold && !hasChanged {
        state.isFailureUntold = false
        warn(failure)
      } else {
        state.isFailureUntold = true
      }
    }
  }

  func expose(into page: inout Exposition) {
    page.gauge(
      "holdfast_tls_certificate_expiry_seconds",
      help: "When the server's TLS certificate ends, in seconds since the Unix epoch.",
      value: Double(calls.expiryUnixSeconds ?? 0))
  }

  private func read() -> TLSFileError? {
    do throws(TLSFileError) {
      try calls.reload()
      try admin?.reload()
    } catch {
      return error
    }
    tellExpiry("read the certificate again: new connections get it")
    return nil
  }

  private func warn(_ failure: TLSFileError) {
    logger.error(
      "cannot read the certificate again: the one from before stays in force",
      metadata: ["error": "\(failure)"])
  }

  private func tellExpiry(_ message: Logger.Message) {
    let end = calls.expiryUnixSeconds ?? 0
    let text = Date(timeIntervalSince1970: Double(end)).formatted(.iso8601)
    logger.notice(message, metadata: ["file": "\(files.certificate)", "expiry": "\(text)"])
    if end <= SystemClock.wall().nanoseconds / Limits.second {
      logger.warning("the certificate has expired", metadata: ["file": "\(files.certificate)"])
    }
  }
}
