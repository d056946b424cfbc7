// The console's numbers: taken once a second, on a thread of its own, for as long as the process lives.
internal import Access
internal import Admin
internal import Bytes
internal import ChangeFeed
internal import Log
internal import Logging
internal import Metrics
internal import Posix
internal import StockStore
internal import Synchronization

/// What the console is fed from. Parts come as the server starts.
struct ConsoleSources: Sendable {
  var store: StockStore?
  var feed: ChangeFeed?
  var ownership: LogOwnership?
}

/// Samples the server, publishes what the console shows, and checks balances as it goes.
final class ConsoleKeeper: Sendable {
  let console: Console
  private let settings: Settings
  private let metrics: RPCMetrics
  private let readiness: @Sendable () -> ServingState
  private let logger: Logger
  private let sources = Mutex(ConsoleSources())
  private let wakeup: Wakeup
  private let report = Mutex(SweepReport())
  private let refused: RefusedTokens

  init(
    _ settings: Settings, _ watcher: Watcher, _ metrics: RPCMetrics, _ logger: Logger,
    readiness: @escaping @Sendable () -> ServingState
  ) throws(CommandFailure) {
    self.settings = settings
    self.metrics = metrics
    self.readiness = readiness
    self.logger = logger
    refused = RefusedTokens()
    console = Console(
      rule: ConsoleAccess.rule(settings, watcher.tokens, refused), limits: Limits.console)
    do throws(Errno) {
      wakeup = try Wakeup()
    } catch {
      throw CommandFailure(description: "cannot prepare for the console: \(error)")
    }
  }

  /// Begins; the threads go on until the process ends: there is nothing to be put away.
  func start() throws(CommandFailure) {
    let lookups: ConsoleLookups
    do throws(Errno) {
      lookups = try ConsoleLookups(console) { [self] in sources.withLock { $0 } }
      console.onDemand(
        state: { [wakeup] in wakeup.signal() }, lookup: { lookups.wakeup.signal() })
      _ = try Thread(name: "console") { [self] in run() }
      _ = try Thread(name: "look-ups") { lookups.run() }
    } catch {
      throw CommandFailure(description: "cannot start the console's threads: \(error)")
    }
  }

  /// The server has got more to show.
  func attach(_ change: @Sendable (inout ConsoleSources) -> Void) {
    sources.withLock { change(&$0) }
  }

  /// What the sweep over all balances has found by now.
  func expose(into page: inout Exposition) {
    let report = report.withLock { $0 }
    page.counter(
      "holdfast_balance_sweep_items_total",
      help: "Items whose balances the background sweep has checked.",
      value: report.itemsChecked)
    page.counter(
      "holdfast_balance_sweep_sweeps_total",
      help: "Sweeps over all items that have come to their end.", value: report.sweeps)
    page.counter(
      "holdfast_balance_sweep_violations_total",
      help: "Balances that the sweep found impossible, each time that it met one. Must stay 0.",
      value: report.violations)
  }

  private func run() {
    let samples = ConsoleSamples(settings)
    var reader: StoreReader?
    var next = SystemClock.monotonicNanoseconds()
    while true {
      let now = SystemClock.monotonicNanoseconds()
      let sources = sources.withLock { $0 }
      if reader == nil, let store = sources.store { reader = StoreReader(store) }
      let isDue = now >= next
      if isDue {
        next = max(next + Limits.second, now + Limits.second / 2)
        if let reader { sweep(reader) }
        tellRefused()
      }
      publish(samples, sources, reader, isNew: isDue, now)
      // A page that is opened is shown the past at once, but whoever opens one after the other keeps no processor.
      wakeup.rest(until: now + Limits.consolePauseNanoseconds)
      // One that was opened in that time.
      if console.wantsPast { continue }
      wakeup.wait(nanoseconds: max(0, next - SystemClock.monotonicNanoseconds()))
    }
  }

  /// Checks the next items.
  @inline(never)
  private func sweep(_ reader: StoreReader) {
    reader.sweep(items: Limits.itemsSweptPerSecond)
    let found = reader.report
    let before = report.withLock { report in
      let before = report.violations
      report = found
      return before
    }
    guard found.violations > before else { return }
    logger.critical(
      "balances that cannot be",
      metadata: [
        "violations": .stringConvertible(found.violations),
        "newest": "\(SlowCallLog.shown(Array((found.findings.last ?? "").utf8)))",
      ])
  }

  /// Somebody may be trying tokens.
  @inline(never)
  private func tellRefused() {
    let times = refused.take()
    if times == 0 { return }
    logger.warning(
      "the console has refused tokens", metadata: ["times": .stringConvertible(times)])
  }

  // Not in the loop that calls it: the optimizer looks for what it could move out of a loop, and of all this that takes minutes.
  @inline(never)
  private func publish(
    _ samples: ConsoleSamples, _ sources: ConsoleSources, _ reader: StoreReader?, isNew: Bool,
    _ now: Int64
  ) {
    samples.take(
      metrics.snapshot(nowNanoseconds: now), sources, reader, isNew: isNew, nowNanoseconds: now)
    let state = ConsoleState(samples, sources, reader, settings, readiness())
    console.publish(
      state.json, lines: state.lines, past: console.wantsPast ? samples.past : nil)
  }
}

/// How often a token was not admitted. Any thread.
final class RefusedTokens: Sendable {
  private let times = Atomic<Int>(0)

  func note() { times.add(1, ordering: .relaxed) }

  /// Since the last call.
  func take() -> Int { times.exchange(0, ordering: .relaxed) }
}

/// Who may see the console of this server.
enum ConsoleAccess {
  static func rule(
    _ settings: Settings, _ tokens: TokenKeeper?, _ refused: RefusedTokens
  ) -> ConsoleRule {
    if let tokens {
      return .tokens { token in
        let admission = admit(token, tokens.file)
        if case .refused = admission { refused.note() }
        return admission
      }
    }
    return .withoutTokens(
      isPortLocal: HostName.isLoopback(settings.adminHost),
      areCallsOpen: !HostName.isLoopback(settings.host) && settings.tls?.clientAuthority == nil,
      hosts: [settings.adminHost, HostName.own])
  }

  private static func admit(_ token: String, _ file: AccessListFile) -> ConsoleAdmission {
    switch file.list.find(token: Array(token.utf8).span, now: SystemClock.wall().nanoseconds) {
    case .unknown: return .refused("This token is not known.")
    case .expired: return .refused("This token has expired.")
    case .granted(let grant):
      guard grant.role >= .admin else {
        return .refused("This token has the role \(grant.role.name); the console needs admin.")
      }
      let digest = grant.subject
      let caller = grant.withCaller { name in
        unsafe name.withUnsafeBufferPointer { unsafe String(decoding: $0, as: UTF8.self) }
      }
      return .granted(
        ConsoleGrant(caller: caller) {
          let now = SystemClock.wall().nanoseconds
          guard case .granted(let still) = file.list.find(tokenDigest: digest, now: now) else {
            return false
          }
          return still.role >= .admin
        })
    }
  }
}

extension Wakeup {
  /// Waits until a monotonic time, whoever signals meanwhile.
  func rest(until end: Int64) {
    while true {
      let left = end - SystemClock.monotonicNanoseconds()
      if left <= 0 { return }
      wait(nanoseconds: left)
    }
  }
}
