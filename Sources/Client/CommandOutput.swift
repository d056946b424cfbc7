// Standard output of a command: a table for a terminal, lines between tabs for a script, JSON for a program.
internal import Glibc
package import Posix

/// How results are written.
package enum OutputFormat: Sendable, Equatable {
  case table
  case plain
  case json
}

/// What is known of a terminal.
package struct TerminalShape: Sendable, Equatable {
  package var isTerminal = false
  package var hasColours = false
  package var columns = 100

  package init() {}

  /// The one behind a descriptor, as it is now. TERM=dumb and NO_COLOR, set to anything, take the colours.
  package init(descriptor: Int32) {
    guard isatty(descriptor) == 1 else { return }
    isTerminal = true
    hasColours =
      ProcessEnvironment.value("TERM") != "dumb" && ProcessEnvironment.value("NO_COLOR") == nil
    var size = winsize()
    if unsafe ioctl(descriptor, UInt(TIOCGWINSZ), &size) == 0, size.ws_col > 0 {
      columns = Int(size.ws_col)
    } else if let stated = ProcessEnvironment.value("COLUMNS").flatMap({ Int($0) }), stated > 0 {
      columns = min(stated, 1_000)
    }
  }
}

package enum ProcessEnvironment {
  /// nil where it is unset or empty.
  package static func value(_ name: String) -> String? {
    // Nobody sets a variable while this reads it, and the text is copied.
    guard let value = unsafe getenv(name) else { return nil }
    let text = unsafe String(cString: value)
    return text.isEmpty ? nil : text
  }
}

/// Why a command cannot write its results.
package enum OutputError: Error, Equatable {
  /// Nobody reads on: its reader's wish.
  case closed
  case failed(Errno)
}

/// Standard output. Rows of a table are kept until they can be aligned; `finish` writes what is left. Used by one
/// thread.
package final class CommandOutput {
  private static let bufferBytes = 64 << 10
  /// So many rows are measured together.
  private static let measuredRows = 500

  package let format: OutputFormat
  private let shape: TerminalShape
  private let hasHeader: Bool
  private var buffer: [UInt8] = []
  private var columns: [TableColumn] = []
  private var rows: [[TableCell]] = []
  private var table: TextTable?

  /// - Parameters:
  ///   - format: nil: a table on a terminal, else plain.
  ///   - hasHeader: the names of the columns come first.
  package init(format: OutputFormat?, hasHeader: Bool) {
    shape = TerminalShape(descriptor: STDOUT_FILENO)
    self.format = format ?? (shape.isTerminal ? .table : .plain)
    self.hasHeader = hasHeader
  }

  /// What follows has these columns.
  package func begin(_ columns: [TableColumn]) throws(OutputError) {
    self.columns = columns
    if format == .plain, hasHeader { try line(TextTable.plainHeader(columns)) }
  }

  /// One result: as cells, or as an object.
  package func add(_ cells: @autoclosure () -> [TableCell], json: @autoclosure () -> JSONLine)
    throws(OutputError)
  {
    switch format {
    case .json: try line(json().line)
    case .plain: try line(TextTable.plain(cells()))
    case .table:
      if let table { return try line(table.row(cells())) }
      rows.append(cells())
      if rows.count == Self.measuredRows { try align() }
    }
  }

  /// Writes what is there; rows that come later stand below as well as they can.
  package func flush() throws(OutputError) {
    if !rows.isEmpty { try align() }
    try writeBuffer()
  }

  /// A table of nothing has no header: `nothing` says so, where a person reads.
  package func finish(nothing: String? = nil) throws(OutputError) {
    if format == .table, table == nil, rows.isEmpty, let nothing { try line(nothing) }
    try flush()
  }

  private func align() throws(OutputError) {
    let made = TextTable(
      columns, for: rows, terminalColumns: shape.isTerminal ? shape.columns : .max / 2,
      hasColours: shape.hasColours)
    if table == nil, hasHeader { try line(made.header) }
    for row in rows { try line(made.row(row)) }
    table = made
    rows.removeAll()
  }

  private func line(_ text: String) throws(OutputError) {
    buffer.append(contentsOf: text.utf8)
    buffer.append(0x0a)
    if buffer.count >= Self.bufferBytes { try writeBuffer() }
  }

  private func writeBuffer() throws(OutputError) {
    var done = 0
    while done < buffer.count {
      // The array is ours for the length of the call, and the range is within it.
      let count = unsafe buffer[done...].withUnsafeBytes { part in
        unsafe write(STDOUT_FILENO, part.baseAddress, part.count)
      }
      if count > 0 {
        done += count
        continue
      }
      let error = Errno(code: errno)
      switch error.code {
      case EINTR: continue
      case EAGAIN:
        var ready = pollfd(fd: STDOUT_FILENO, events: Int16(POLLOUT), revents: 0)
        _ = unsafe poll(&ready, 1, -1)
      case EPIPE: throw .closed
      default: throw .failed(error)
      }
    }
    buffer.removeAll(keepingCapacity: true)
  }

  /// Nobody reads any more, whatever is written.
  package var isClosed: Bool {
    var state = pollfd(fd: STDOUT_FILENO, events: 0, revents: 0)
    return unsafe poll(&state, 1, 0) > 0 && state.revents & Int16(POLLERR) != 0
  }
}

/// Asks the person at the terminal.
package enum Question {
  /// Somebody can be asked: standard input and standard error are a terminal.
  package static var isPossible: Bool {
    isatty(STDIN_FILENO) == 1 && isatty(STDERR_FILENO) == 1
  }

  /// Whether the answer is yes. The end of the input is a no.
  package static func ask(_ text: String) -> Bool {
    let bytes = Array((PlainText.printable(text) + " [y/N] ").utf8)
    _ = FileDescriptor.write(STDERR_FILENO, bytes, patienceMilliseconds: 1000)
    let answer = readLine() ?? ""
    return ["y", "yes"].contains(answer.lowercased())
  }
}
