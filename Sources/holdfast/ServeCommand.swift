// `holdfast serve`: the command line of the server.
internal import ArgumentParser

struct ServeCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "serve",
    abstract: "Serve the gRPC API, and metrics on a port of their own.",
    discussion: """
      Each setting is a flag, else an environment variable (HOLDFAST_PORT for --port, \
      HOLDFAST_MAX_HOLD for --max-hold), else an entry of the --config file (a JSON object, such \
      as {"port": 7420, "max-hold": "2h"}), else its default. Durations are written 500ms, 30s, \
      10m or 24h. When it is ready, it prints one line that names its ports.

      Where neither says otherwise, --tokens, --tls-cert, --tls-key and --tls-client-ca are the files of these names in \
      $CREDENTIALS_DIRECTORY, if they are there: credentials of a systemd unit, or /run/secrets of a container.

      Exit status: 0 after SIGTERM or SIGINT, 1 where it cannot start, 3 where the data directory \
      is damaged, 64 for a setting that makes no sense, 74 where the disk failed under the journal, \
      or did not answer until the time of a shutdown was over: nothing was acknowledged from then \
      on, and everything acknowledged before is there at the next start; 75 where another server has the log of \
      --durability quorum now. 74 too where the data \
      directory or a segment in it was removed or replaced: what was there is where it was taken. SIGHUP: the token file \
      and the TLS files are read again.
      """)

  @Option(
    help: ArgumentHelp(
      "Host or IP address to serve gRPC on, or unix:/path for a unix socket (127.0.0.1).",
      valueName: "address"))
  var host: String?
  @Option(help: ArgumentHelp("Port to serve gRPC on; 0 for a free one (7420).", valueName: "port"))
  var port: String?
  @Option(
    help: ArgumentHelp(
      "Host or IP address for metrics and health (127.0.0.1).", valueName: "address"))
  var adminHost: String?
  @Option(
    help: ArgumentHelp("Port for metrics and health; 0 for a free one (7421).", valueName: "port"))
  var adminPort: String?
  @Option(
    help: ArgumentHelp(
      "Event loops; auto is one per processor, or what of them the control group allows (auto).",
      valueName: "n"))
  var loops: String?
  @Option(
    help: ArgumentHelp(
      """
      What an answered decision outlives: quorum this machine (--engine), fsync a power cut, os the end of \
      the process, memory nothing, in exchange for speed (fsync).
      """, valueName: "mode"))
  var durability: String?
  @Option(
    help: ArgumentHelp(
      "Where the journal is kept, by one server alone (holdfast-data).", valueName: "directory"))
  var dataDir: String?
  @Option(
    help: ArgumentHelp(
      """
      With --durability quorum: the PostgreSQL database that keeps the log, as libpq takes it, with all its hosts. \
      Passwords come from PGPASSFILE or a service file.
      """, valueName: "address"))
  var engine: String?
  @Flag(
    help: "With --durability quorum: follow the log, and take it over when its owner is gone.")
  var standby = false
  @Flag(
    help: """
      With --standby: pass connections on to the owner, byte by byte. Without it calls are refused, and told where \
      the owner is.
      """)
  var forward = false
  @Flag(
    help: """
      With --standby: answer reads from the copy of the log, as old as the trailers holdfast-lsn and \
      holdfast-age-ms say.
      """)
  var staleReads = false
  @Option(
    help: ArgumentHelp(
      "Where clients reach this server, as others tell them (--host and --port).",
      valueName: "host:port"))
  var advertise: String?
  @Option(
    help: ArgumentHelp(
      "How long after its last sign of life the log's owner is taken for gone (2500ms).",
      valueName: "time"))
  var lease: String?
  @Option(help: .hidden)
  var journalSegmentBytes: String?
  @Option(
    help: ArgumentHelp(
      """
      Bytes of decisions that are kept for those who watch, beyond what a start needs: on the disk in \
      whole segments, with durability memory in memory (auto: \(Limits.historyBytes), in memory only while \
      somebody watches). 0 in memory: nobody can watch.
      """, valueName: "bytes"))
  var history: String?
  @Option(
    help: ArgumentHelp(
      """
      Where segments of the journal are kept for good, so that holdfast restore brings a backup up to any moment \
      since: a directory of this store alone, better on another disk (none).
      """, valueName: "directory"))
  var archive: String?
  @Option(help: ArgumentHelp("Most items (\(Limits.itemsMax)).", valueName: "n"))
  var maxItems: String?
  @Option(
    help: ArgumentHelp(
      "Most reservations and recorded decisions, 160 bytes each (\(Limits.reservationsMax)).",
      valueName: "n"))
  var maxReservations: String?
  @Option(
    help: ArgumentHelp(
      """
      Most pairs of a subject that has a limit and an item that it holds or has bought, 56 bytes each \
      (\(Limits.subjectEntriesMax)).
      """, valueName: "n"))
  var maxLimits: String?
  @Option(help: ArgumentHelp("Most connections (\(Limits.connectionsMax)).", valueName: "n"))
  var maxConnections: String?
  @Option(
    help: ArgumentHelp(
      """
      Most connections of one IPv4 address or IPv6 /64; auto is half of all, and does not count peers \
      on this machine (auto).
      """, valueName: "n"))
  var maxConnectionsPerPeer: String?
  @Option(
    help: ArgumentHelp(
      "After how long a connection is ended in an orderly way; 0s is never (0s).",
      valueName: "time"))
  var maxConnectionAge: String?
  @Option(
    help: ArgumentHelp("How long its calls may then go on (30s).", valueName: "time"))
  var maxConnectionAgeGrace: String?
  @Option(
    help: ArgumentHelp(
      "After how long without a call a connection is ended; 0s is never (0s).", valueName: "time"))
  var maxConnectionIdle: String?
  @Option(
    help: ArgumentHelp(
      "After how long of silence a client is sent an HTTP/2 PING; 0s is never (10m).",
      valueName: "time"))
  var keepaliveTime: String?
  @Option(
    help: ArgumentHelp("How long it then has to say anything (20s).", valueName: "time"))
  var keepaliveTimeout: String?
  @Option(
    help: ArgumentHelp("A hold's time to live where none is asked for (600s).", valueName: "time"))
  var defaultTtl: String?
  @Option(
    help: ArgumentHelp("Longest life of a hold, extensions included (24h).", valueName: "time"))
  var maxHold: String?
  @Option(
    help: ArgumentHelp(
      "How long a decision is remembered for retries after its end (24h).", valueName: "time"))
  var retention: String?
  @Option(
    help: ArgumentHelp(
      "A client's time for its HTTP/2 preface, and to finish a frame that it began (10s).",
      valueName: "time"))
  var handshakeTimeout: String?
  @Option(
    help: ArgumentHelp(
      "A client's time to read what waits for it, or to give a stream credit (60s).",
      valueName: "time"))
  var stallTimeout: String?
  @Option(help: ArgumentHelp("How long a shutdown waits for open calls (10s).", valueName: "time"))
  var shutdownTimeout: String?
  @Option(
    help: ArgumentHelp(
      """
      How far the machine's clock may be ahead of the newest record at a start: longer than an \
      outage takes (24h).
      """, valueName: "time"))
  var clockJumpMax: String?
  @Flag(help: "Start with the machine's clock although it is further ahead than that. Once.")
  var acceptClock = false
  @Option(
    help: ArgumentHelp(
      "Who may call, and what: see holdfast token. Without it, whoever reaches the port.",
      valueName: "file"))
  var tokens: String?
  @Option(
    help: ArgumentHelp(
      "Serve over TLS: the certificate, and behind it those that lead to its CA, as PEM.",
      valueName: "file"))
  var tlsCert: String?
  @Option(help: ArgumentHelp("The certificate's private key, as PEM.", valueName: "file"))
  var tlsKey: String?
  @Option(
    help: ArgumentHelp(
      "Let only clients in that have a certificate of one of these CAs, as PEM.",
      valueName: "file"))
  var tlsClientCa: String?
  @Flag(
    help: """
      Connections begin with a header of the PROXY protocol, version 2, that names the client. For ports \
      that only such proxies reach.
      """)
  var proxyProtocol = false
  @Flag(help: "Serve metrics and health over TLS too, with the same certificate.")
  var adminTls = false
  @Option(
    help: ArgumentHelp(
      "How commands on the same item are kept apart (optimistic).",
      discussion: """
        optimistic: who finds the item changed since it was read decides again.
        locking: lock the item first, with leases and fencing tokens.
        single-writer: one writer for each shard does what others have queued.
        queued: a queue for each item, first come, first served.
        """, valueName: "strategy"))
  var concurrency: String?
  @Option(
    help: ArgumentHelp(
      """
      Tell in the log of unary calls that took so long: where their time went, the SKU, the caller and the trace; \
      ten a second at most (0s: of none).
      """, valueName: "time"))
  var slowCall: String?
  @Option(
    help: ArgumentHelp(
      "trace, debug, info, notice, warning, error or critical (info).", valueName: "level"))
  var logLevel: String?
  @Option(
    help: ArgumentHelp(
      "text or json; auto is text on a terminal and json elsewhere (auto).", valueName: "format"))
  var logFormat: String?
  @Option(help: ArgumentHelp("A JSON file with settings (HOLDFAST_CONFIG).", valueName: "file"))
  var config: String?
  @Flag(help: "Print every setting, the value in force and where it came from, and end.")
  var printConfig = false

  func run() async throws {
    try await CommandFailure.report {
      var settings = try await Settings(flags: flags, file: config)
      settings.acceptsClock = acceptClock
      if printConfig {
        for warning in settings.warnings { CommandFailure.complain(warning) }
        for (name, value, source) in settings.sources {
          print("\(name) = \(value)  (\(source))")
        }
      } else {
        try await Service.run(settings)
      }
    }
  }

  private var flags: [String: String] {
    let all: [String: String?] = [
      "host": host, "port": port, "admin-host": adminHost, "admin-port": adminPort,
      "loops": loops, "durability": durability, "data-dir": dataDir,
      "engine": engine, "standby": standby ? "true" : nil,
      "forward": forward ? "true" : nil, "stale-reads": staleReads ? "true" : nil,
      "advertise": advertise, "lease": lease,
      "journal-segment-bytes": journalSegmentBytes, "history": history, "archive": archive,
      "max-items": maxItems,
      "max-reservations": maxReservations, "max-limits": maxLimits,
      "max-connections": maxConnections,
      "max-connections-per-peer": maxConnectionsPerPeer, "max-connection-age": maxConnectionAge,
      "max-connection-age-grace": maxConnectionAgeGrace, "max-connection-idle": maxConnectionIdle,
      "keepalive-time": keepaliveTime, "keepalive-timeout": keepaliveTimeout,
      "default-ttl": defaultTtl, "max-hold": maxHold, "retention": retention,
      "handshake-timeout": handshakeTimeout, "stall-timeout": stallTimeout,
      "shutdown-timeout": shutdownTimeout,
      "clock-jump-max": clockJumpMax,
      "tokens": tokens, "tls-cert": tlsCert, "tls-key": tlsKey, "tls-client-ca": tlsClientCa,
      "admin-tls": adminTls ? "true" : nil, "proxy-protocol": proxyProtocol ? "true" : nil,
      "concurrency": concurrency, "slow-call": slowCall, "log-level": logLevel,
      "log-format": logFormat,
    ]
    return all.compactMapValues { $0 }
  }
}
