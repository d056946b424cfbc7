// A server that a comparison has started: on free ports, with a folder of its own, gone without a trace
// afterwards.
internal import FoundationEssentials
internal import LoadReport
internal import Posix

/// A server that takes connections, until `stop` or until the value goes.
struct StartedServer: ~Copyable {
  let target: Endpoint
  /// Where its metrics are; nil if the command does not say {admin}.
  let admin: Endpoint?
  var processIdentifier: Int32 { process.identifier }

  private let name: String
  // Before the folder: it ends first.
  private var process: ChildProcess
  private let folder: TemporaryFolder

  /// A server that is not there by then will not come.
  static let startNanoseconds: Int64 = 20_000_000_000
  /// How long it may take over ending by itself.
  static let stopNanoseconds: Int64 = 15_000_000_000
  /// How many of its last lines are told where it fails.
  static let linesTold = 5
  /// Starts `command`, and waits until it takes connections.
  ///
  /// - Parameters:
  ///   - values: what further placeholders stand for.
  ///   - parent: where its folder is made.
  /// - Throws: why it does not run, with its last lines.
  static func start(
    _ command: ServerCommand, name: String, values: [String: String], parent: String
  ) throws(LoadError) -> StartedServer {
    let folder = try TemporaryFolder(in: parent)
    let host = "127.0.0.1"
    let port = try freePort(host)
    let adminPort = command.uses("admin") ? try freePort(host) : nil
    var values = values
    values["port"] = "\(port)"
    values["admin"] = "\(adminPort ?? 0)"
    values["data"] = folder.data
    let arguments = command.arguments(values)
    let process: ChildProcess
    do {
      process = try ChildProcess(arguments, log: folder.log)
    } catch {
      throw LoadError("\(name): cannot start \(arguments[0]): \(error)")
    }
    var server = StartedServer(
      target: Endpoint(host: host, port: port),
      admin: adminPort.map { Endpoint(host: host, port: $0) },
      name: name, folder: folder, process: process)
    try server.awaitConnections()
    return server
  }

  private init(
    target: Endpoint, admin: Endpoint?, name: String, folder: consuming TemporaryFolder,
    process: consuming ChildProcess
  ) {
    self.target = target
    self.admin = admin
    self.name = name
    self.folder = folder
    self.process = process
  }

  private mutating func awaitConnections() throws(LoadError) {
    let deadline = SystemClock.monotonicNanoseconds() + StartedServer.startNanoseconds
    while true {
      try checkAlive("before it took connections")
      if EndSignals.received != nil { throw LoadError("interrupted") }
      if target.takesConnections(), admin.map({ $0.takesConnections() }) ?? true { return }
      if SystemClock.monotonicNanoseconds() > deadline {
        let seconds = StartedServer.startNanoseconds / 1_000_000_000
        throw LoadError(
          "\(name): nobody took connections on \(target) within \(seconds) s\(folder.lastWords)")
      }
      sleep(milliseconds: 5)
    }
  }

  /// Throws where it has ended by itself.
  mutating func checkAlive(_ moment: String) throws(LoadError) {
    if let ending = process.poll() {
      throw LoadError("\(name): \(ending) \(moment)\(folder.lastWords)")
    }
  }

  /// Ends it, whatever it takes. Throws where it had ended by itself, or had to be killed.
  consuming func stop() throws(LoadError) {
    try checkAlive("under the load")
    let ending = process.stop(patienceNanoseconds: StartedServer.stopNanoseconds)
    if ending == .killed(signal: 9) {
      let seconds = StartedServer.stopNanoseconds / 1_000_000_000
      throw LoadError(
        "\(name): it did not end within \(seconds) s of SIGTERM, and was killed\(folder.lastWords)")
    }
  }
}

/// A folder that goes with its value.
private struct TemporaryFolder: ~Copyable {
  private let path: String
  /// A directory, empty at first.
  let data: String
  /// Both outputs of the server.
  let log: String

  init(in parent: String) throws(LoadError) {
    path = "\(parent)/holdfast-compare-\(String(Machine.random64(), radix: 36))"
    data = path + "/data"
    log = path + "/log"
    do {
      _ = try Directory.make(path: path)
      _ = try Directory.make(path: data)
    } catch {
      throw LoadError("cannot make a folder in \(parent): \(error)")
    }
  }

  deinit { try? FileManager.default.removeItem(atPath: path) }

  /// The end of the log, for an error, in one line.
  var lastWords: String {
    guard let bytes = try? Data(contentsOf: URL(filePath: log), options: .mappedIfSafe) else {
      return ""
    }
    let lines = String(decoding: bytes.suffix(4_096), as: UTF8.self)
      .split(whereSeparator: \.isNewline).suffix(StartedServer.linesTold)
      .map { Text.printable(String($0)) }
    return lines.isEmpty ? "; it said nothing" : "; it said: \(lines.joined(separator: " ⏎ "))"
  }
}

/// A port that nobody listens on now. Somebody else may take it first: the server then says so.
private func freePort(_ host: String) throws(LoadError) -> UInt16 {
  do {
    let listener = try Socket.listen(host: host, port: 0, backlog: 1)
    return try Socket.localPort(listener.number)
  } catch {
    throw LoadError("there is no free port: \(error)")
  }
}

extension Endpoint {
  /// Whether somebody listens there, now.
  func takesConnections() -> Bool {
    guard let socket = try? Socket.connect(host: host, port: port), let poller = try? Poller(),
      (try? poller.add(socket.number, token: 0, writable: true)) != nil,
      let count = try? poller.wait(timeoutMilliseconds: 1_000)
    else { return false }
    return count > 0 && Socket.connectError(socket.number) == nil
  }
}
