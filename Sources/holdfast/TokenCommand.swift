// `holdfast token`: makes, lists and takes away the entries of a token file. A token itself is printed
// once, when it is made, and is nowhere else.
internal import Access
internal import ArgumentParser
internal import FoundationEssentials
internal import Posix

struct TokenCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "token",
    abstract: "Make, list and take away callers of holdfast serve --tokens.",
    discussion: """
      A token file has one entry a line: the hash of a token, or a name in a client certificate, then \
      whose it is and what it may do. It can be edited by hand as well:

        token sha256:HEX caller=checkout role=reserve own-holds-only expires=2027-01-31 note=Till 7
        cert uri:spiffe://shop/reports caller=reports role=read

      Roles: read < reserve < stock < admin; each may do what those before it may. A server that runs \
      reads a changed file within seconds, or on SIGHUP.

      Exit status: 0 where it was done, 1 where nothing was changed, 64 for a command line that makes \
      no sense.
      """,
    subcommands: [Create.self, List.self, Revoke.self])

  /// Calls `body`; what Access says becomes the command's failure.
  private static func attempt<Value: ~Copyable>(
    _ body: () throws(AccessError) -> Value
  ) throws(CommandFailure) -> Value {
    do throws(AccessError) {
      return try body()
    } catch {
      throw CommandFailure(description: error.description)
    }
  }

  private static func usage(_ text: String) -> CommandFailure {
    CommandFailure(description: text, status: CommandFailure.usage)
  }

  // MARK: create

  struct Create: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
      commandName: "create",
      abstract: "Make a token, print it once, and add its entry to a token file.",
      discussion: """
        The token is the first line on standard output: 192 random bits and a checksum, as \
        hft_ and 38 characters. With --file, its entry (the hash, never the token) is added there; \
        without, it is the second line. Clients send it as the metadata \
        "authorization: Bearer TOKEN".
        """)

    @Option(help: ArgumentHelp("Whose token it is: up to 64 bytes of printable ASCII."))
    var caller: String
    @Option(help: ArgumentHelp("read, reserve, stock or admin."))
    var role: String
    @Flag(
      help: "It may confirm, release and extend only what was reserved under this caller's name.")
    var ownHoldsOnly = false
    @Option(
      help: ArgumentHelp(
        "Good for so long (90d, 12h, 30m), or before a moment (2027-01-31, 2027-01-31T12:00:00Z).",
        valueName: "time"))
    var expires: String?
    @Option(help: ArgumentHelp("For people who read the file.", valueName: "text"))
    var note: String?
    @Option(
      help: ArgumentHelp("The token file, made if need be, for its owner alone.", valueName: "file")
    )
    var file: String?
    @Flag(
      help: ArgumentHelp(
        """
        Take the token from standard input instead of making one: \(Token.byteCountMin) characters at \
        least, as random as 128 bits. It is not printed.
        """))
    var stdin = false

    func run() async throws {
      try await CommandFailure.report {
        let attributes = try attributes()
        let token = try stdin ? ownToken() : newToken()
        var entry = attributes
        entry.subject = .token(token.digest)
        if let file {
          var editor = try TokenCommand.attempt { () throws(AccessError) in
            try TokenFileEditor(path: file, limits: Limits.access, mayBeNew: true)
          }
          editor.append(entry)
          do throws(AccessError) { try editor.write() } catch {
            throw CommandFailure(description: error.description)
          }
        }
        // Only now: a token that is in no file is of no use.
        if !stdin { print(token.text) }
        if file == nil { print(entry.text) }
      }
    }

    private func newToken() throws(CommandFailure) -> Token {
      guard let token = Token.make() else {
        throw CommandFailure(description: "the system gives no random numbers")
      }
      return token
    }

    private func ownToken() throws(CommandFailure) -> Token {
      guard let line = readLine(strippingNewline: true) else {
        throw TokenCommand.usage("--stdin: there is no token on standard input")
      }
      do throws(AccessError) {
        return try Token(own: line, byteCountMax: Limits.access.tokenBytesMax)
      } catch {
        throw TokenCommand.usage("--stdin: \(error)")
      }
    }

    /// The entry, but for its token.
    private func attributes() throws(CommandFailure) -> TokenFileEntry {
      guard let role = Role(name: role) else {
        throw TokenCommand.usage("--role: read, reserve, stock or admin")
      }
      guard CallerName.isValid(Array(caller.utf8).span) else {
        throw TokenCommand.usage("--caller: up to 64 bytes of printable ASCII without spaces")
      }
      guard !ownHoldsOnly || !caller.isEmpty else {
        throw TokenCommand.usage("--own-holds-only: needs a --caller with a name")
      }
      // The subject is a stand-in until the token is there.
      var entry = TokenFileEntry(
        subject: .certificate(""), caller: caller, role: role)
      entry.ownHoldsOnly = ownHoldsOnly
      if let expires { entry.expires = try Self.moment(expires) }
      if let note {
        guard note.utf8.count <= Self.noteBytesMax,
          note.utf8.allSatisfy({ $0 >= 0x20 && $0 != 0x7f })
        else {
          throw TokenCommand.usage("--note: one line of up to \(Self.noteBytesMax) bytes")
        }
        entry.note = note
      }
      return entry
    }

    /// A sentence; a line of the file has room for it.
    private static let noteBytesMax = 500

    private static func moment(_ text: String) throws(CommandFailure) -> AccessTime {
      if let time = AccessTime(text) { return time }
      let units: [Character: Int64] = ["m": 60, "h": 3600, "d": 86_400]
      if let unit = text.last.flatMap({ units[$0] }), let count = Int64(text.dropLast()),
        1...(100 * 366 * 86_400 / unit) ~= count
      {
        let now = SystemClock.wall()
        return AccessTime(
          nanoseconds: now.advanced(byNanoseconds: count * unit * Limits.second).nanoseconds)
      }
      throw TokenCommand.usage(
        "--expires: such as 90d, 12h or 30m, or a moment: 2027-01-31, 2027-01-31T12:00:00Z")
    }
  }

  // MARK: list

  struct List: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
      commandName: "list",
      abstract: "Print the entries of a token file.",
      discussion: """
        One line each: what it is named by (of a token, the first \(Digest.idDigits) digits of its \
        hash), then its words as the file has them, and behind them (expired) where it is.
        """)

    @Option(help: ArgumentHelp("The token file.", valueName: "file"))
    var file: String

    func run() async throws {
      try await CommandFailure.report {
        let entries = try TokenCommand.attempt { () throws(AccessError) in
          try TokenFileEditor.entries(ofFile: file, limits: Limits.access)
        }
        let now = SystemClock.wall().nanoseconds
        for entry in entries {
          let isExpired = entry.expires.map { $0.nanoseconds <= now } ?? false
          print("\(entry.id) \(entry.attributes)\(isExpired ? " (expired)" : "")")
        }
      }
    }
  }

  // MARK: revoke

  struct Revoke: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
      commandName: "revoke",
      abstract: "Take entries out of a token file.",
      discussion: """
        All of a caller, or the one with an id as holdfast token list prints it. A server that runs \
        refuses them within seconds, on open connections too.
        """)

    @Option(help: ArgumentHelp("The token file.", valueName: "file"))
    var file: String
    @Option(help: ArgumentHelp("Every entry of this caller.", valueName: "name"))
    var caller: String?
    @Option(help: ArgumentHelp("The entry with this id.", valueName: "id"))
    var id: String?

    func run() async throws {
      try await CommandFailure.report {
        guard (caller == nil) != (id == nil) else {
          throw TokenCommand.usage("either --caller or --id")
        }
        var editor = try TokenCommand.attempt { () throws(AccessError) in
          try TokenFileEditor(path: file, limits: Limits.access)
        }
        let entries = editor.entries.filter { entry in
          if let caller { return entry.caller == caller }
          return entry.id == id
        }
        guard !entries.isEmpty else {
          throw CommandFailure(
            description: caller == nil
              ? "\(file): no entry has this id; holdfast token list prints them"
              : "\(file): no entry is this caller's; holdfast token list prints them")
        }
        guard id == nil || entries.count == 1 else {
          throw CommandFailure(description: "\(file): \(entries.count) entries have this id")
        }
        editor.remove(entries)
        do throws(AccessError) { try editor.write() } catch {
          throw CommandFailure(description: error.description)
        }
        for entry in entries { print("revoked \(entry.id) \(entry.attributes)") }
      }
    }
  }
}
