// Why a command did not get what it asked for: in words for the person who typed it, and as an exit status for a script.
package import GRPC

/// Exit statuses of commands that call a server; from 64 on those of sysexits.h.
package enum ExitStatus {
  /// The server has said no: nothing was changed.
  package static let refused: Int32 = 1
  /// The command line makes no sense (EX_USAGE).
  package static let usage: Int32 = 64
  /// A file has mistakes (EX_DATAERR).
  package static let badData: Int32 = 65
  /// A file cannot be read (EX_NOINPUT).
  package static let noInput: Int32 = 66
  /// No server answers, or it says that it cannot now (EX_UNAVAILABLE).
  package static let unavailable: Int32 = 69
  /// What answers is no holdfast server, or one that fails (EX_SOFTWARE).
  package static let broken: Int32 = 70
  /// What was to be written cannot be (EX_IOERR).
  package static let outputFailed: Int32 = 74
  /// Nobody knows whether it was done, or it was cut off: do it again, under the same key (EX_TEMPFAIL).
  package static let again: Int32 = 75
  /// TLS: the server is not who it should be, or does not speak it (EX_PROTOCOL).
  package static let untrusted: Int32 = 76
  /// The server does not know the caller, or does not let it (EX_NOPERM).
  package static let notPermitted: Int32 = 77
}

/// What became of a call that did not end with OK.
package struct CallFailure: Error, Equatable {
  package enum Kind: Equatable, Sendable {
    /// The server has answered with a status other than OK.
    case answered(StatusCode)
    /// The call ended otherwise; what the server decided is unknown.
    case broken(StatusCode)
    /// No call was made, or it got no end.
    case connection(ServiceClientError.Kind)
    /// The time was up.
    case timedOut
    /// The server's message is none of the kind that was asked for.
    case malformed
    /// By a signal.
    case interrupted
  }

  package var kind: Kind
  /// The server's words, or ours.
  package var text: String
  package var details = StatusDetails()
  /// The server's address.
  package var server = ""
  /// This call or an earlier try of it may have been decided, and nobody knows how.
  package var isOutcomeUnknown = false
  /// Of the call, where it has one.
  package var idempotencyKey = ""

  package init(_ kind: Kind, _ text: String, server: String = "") {
    self.kind = kind
    self.text = text
    self.server = server
  }

  /// What the server would have said of one item.
  package static func notFound(_ items: [ItemName], server: String) -> CallFailure {
    let names = items.prefix(20).map(\.description).joined(separator: ", ")
    var failure = CallFailure(
      .answered(.notFound), "not there: \(names)\(items.count > 20 ? ", …" : "")", server: server)
    failure.details = StatusDetails(reason: "ITEM_NOT_FOUND")
    return failure
  }

  package init(_ end: ServiceCallEnd, server: String) {
    self.init(
      end.isAnswered ? .answered(end.status) : .broken(end.status), end.text, server: server)
    details = end.details
    // What has no reason of ours was said on the way, by a proxy or the like: the server may have decided.
    let isOfServer =
      end.isAnswered && !(details.reason.isEmpty && Self.ofProxies.contains(end.status))
    isOutcomeUnknown = !isOfServer && !end.isUnprocessed
  }

  private static let ofProxies: Set<StatusCode> = [
    .unavailable, .deadlineExceeded, .cancelled, .unknown, .internal,
  ]

  /// The same may succeed a little later, or with another server.
  package var isTemporary: Bool {
    switch kind {
    case .answered(let code), .broken(let code): code == .unavailable
    case .connection(let kind): kind == .unreachable || kind == .lost
    case .timedOut, .malformed, .interrupted: false
    }
  }

  /// The server has looked at the call and refused it. What it says then is so for all tries under the same key, or of the same
  /// reservation: one that was decided is answered alike. Who may not call hears nothing of what was decided.
  var saysWhatWasDecided: Bool {
    guard case .answered(let code) = kind, !details.reason.isEmpty else { return false }
    switch code {
    case .failedPrecondition, .notFound, .aborted, .alreadyExists, .invalidArgument, .outOfRange:
      return true
    default: return false
    }
  }

  /// Another server is the owner, or may be.
  package var isNotOwner: Bool { ["NOT_OWNER", "LEASE_OVER"].contains(details.reason) }

  /// gRPC's name of the code; of failures that have none, the one that gRPC's clients would give.
  package var codeName: String {
    switch kind {
    case .answered(let code), .broken(let code): code.name
    case .connection(.credentials): StatusCode.unauthenticated.name
    case .connection: StatusCode.unavailable.name
    case .timedOut: StatusCode.deadlineExceeded.name
    case .malformed: StatusCode.internal.name
    case .interrupted: StatusCode.cancelled.name
    }
  }

  package var exitStatus: Int32 {
    switch kind {
    case .connection(.credentials), .answered(.unauthenticated), .answered(.permissionDenied),
      .broken(.unauthenticated), .broken(.permissionDenied):
      ExitStatus.notPermitted
    case .connection(.untrusted): ExitStatus.untrusted
    case .connection(.malformed), .malformed: ExitStatus.broken
    case .interrupted: ExitStatus.again
    case _ where isOutcomeUnknown: ExitStatus.again
    case .connection, .timedOut, .answered(.unavailable), .answered(.deadlineExceeded),
      .broken(.unavailable):
      ExitStatus.unavailable
    case .answered(.notFound), .answered(.alreadyExists), .answered(.failedPrecondition),
      .answered(.aborted), .answered(.outOfRange), .answered(.resourceExhausted),
      .answered(.invalidArgument), .answered(.cancelled):
      ExitStatus.refused
    case .answered, .broken: ExitStatus.broken
    }
  }

  /// The code and the reason that the server gave: for the end of a line.
  package var label: String { details.reason.isEmpty ? codeName : details.reason }
}

// MARK: Words

extension CallFailure {
  /// The lines for a person: what happened, everything the server named, and what to do.
  package func lines() -> [String] {
    var lines = ["\(headline) (\(label))"]
    for violation in details.violations.dropFirst(details.violations.count > 1 ? 0 : 1) {
      lines.append("  \(violation.subject): \(violation.description)")
    }
    if let hint { lines.append("  \(hint)") }
    if isOutcomeUnknown {
      lines.append(
        idempotencyKey.isEmpty
          ? "  It is not known whether it was done. The same command again is harmless."
          : "  It is not known whether it was done. Again with --key \(idempotencyKey) it is done once."
      )
    }
    return lines.map(PlainText.printable)
  }

  private var headline: String {
    switch kind {
    case .answered, .malformed: text
    case .broken, .connection, .timedOut: server.isEmpty ? text : "\(server): \(text)"
    case .interrupted: "interrupted"
    }
  }

  /// What to do about it; nil where the words say it all.
  package var hint: String? {
    if let words = Self.hints[details.reason] { return words }
    switch details.reason {
    case "NOT_OWNER":
      guard let owner = details.value("owner") else {
        return "No other server is known to decide now; a takeover takes some seconds."
      }
      return "The server that decides is at \(owner): --target \(owner), or name both."
    case "ROLE_REQUIRED":
      return details.value("role").map { "The token or certificate needs the role \($0)." }
    case "ITEM_NOT_EMPTY":
      return
        "Set on hand to 0, and end its reservations, first: \(named("on_hand")), \(named("held")), \(named("committed"))."
    case "VERSION_MISMATCH": return "It is at version \(value("current_version")) now."
    case "ON_HAND_MISMATCH": return "It has \(value("current_on_hand")) on hand now."
    case "REVISION_MISMATCH": return "It is at revision \(value("current_revision")) now."
    case "RESUME_TOKEN_TOO_OLD":
      return
        "What is kept begins behind LSN \(value("oldest_lsn")). Read the stock (holdfast stock list), then watch from now, or --from oldest."
    default: break
    }
    switch kind {
    case .connection(.unreachable):
      return "Is the server running? --target or HOLDFAST_TARGET says where it is."
    case .connection(.unknownHost): return "--target or HOLDFAST_TARGET says where the server is."
    case .connection(.untrusted):
      return
        "--tls-ca names the CAs to trust, --server-name the name in the certificate, --tls-cert and --tls-key one of our own."
    case .connection(.malformed), .malformed, .answered(.unimplemented), .broken(.unimplemented):
      return
        "Is that a holdfast server, and its gRPC port? Where it speaks TLS: --tls, or https:// before the address."
    case .answered(.unauthenticated), .broken(.unauthenticated):
      return "HOLDFAST_TOKEN or --token-file has the token."
    default: return nil
    }
  }

  private func value(_ name: String) -> String { details.value(name) ?? "?" }
  private func named(_ name: String) -> String { "\(name) is \(value(name))" }

  /// By reason of google.rpc.ErrorInfo (docs/ARCHITECTURE.md, "Errors"): where the words need nothing of its metadata.
  static let hints: [String: String] = [
    "ITEM_NOT_FOUND":
      "holdfast stock list shows what there is; a location is written SKU@LOCATION.",
    "RESERVATION_NOT_FOUND":
      "The id is wrong, or it ended so long ago that the server has forgotten it.",
    "RESERVATION_EXPIRED":
      "Its units are back in stock. confirm --reacquire takes them again, if they are still there.",
    "RESERVATION_CONFIRMED": "It is sold: holdfast stock adjust brings units back that return.",
    "RESERVATION_RELEASED": "It was given back; a new reserve is needed.",
    "NOT_ON_SALE": "holdfast stock sale shows and changes when an item may be reserved.",
    "INSUFFICIENT_STOCK": "holdfast stock get shows what is on hand and who has it.",
    "INSUFFICIENT_COMMITTED": "Only what was confirmed with --keep-committed is shipped.",
    "LIMIT_EXCEEDED": "What counts is what the subject holds and has bought under limits.",
    "ON_HAND_LIMIT": "At most 1099511627776 units are on hand.",
    "IDEMPOTENCY_KEY_REUSED":
      "The key belongs to another change (--reason and --reference count too): without --key a new one is made.",
    "IMPORT_GAP": "The server does not know the rows before.",
    "CONFLICT_TOO_BUSY": "Nothing was changed: try again.",
    "OVERLOADED": "Nothing was changed: try again a little later.",
    "SHUTTING_DOWN": "Nothing was changed. The server stops: another may take over.",
    "STORAGE_FULL":
      "The server's disk is full: it reads, and changes nothing, until there is room.",
    "LEASE_OVER": "Another server may be taking over: try again, with all servers in --target.",
    "TABLE_FULL": "The server is at a limit of its own (holdfast serve --help, --max-…).",
    "NOT_OWN_HOLD": "The token may end only what was reserved with it (own-holds-only).",
    "CREDENTIALS_MISSING":
      "HOLDFAST_TOKEN or --token-file has the token, --tls-cert a certificate.",
    "TOKEN_INVALID": "The server does not have this token in its file: mistyped, or revoked?",
    "TOKEN_EXPIRED": "holdfast token create makes another one.",
    "CERTIFICATE_UNKNOWN": "The server's token file has no entry for this certificate.",
    "CERTIFICATE_EXPIRED": "The entry for this certificate in the server's token file has ended.",
    "CALLER_MISMATCH": "The token is of another caller than --caller says.",
    "RESUME_TOKEN_FOREIGN":
      "The store is another one, or was repaired, restored, or started anew without a journal. Read the stock (holdfast stock list), remove the resume file, and watch from now.",
    "HISTORY_OFF": "A server with a journal, or without --history 0, keeps events.",
    "TOO_MANY_WATCHES": "1,000 follow this server already.",
    "CREDENTIALS_CHANGED": "The role of the token has changed: watch again.",
    "LOG_UNREADABLE": "The server's disk fails; its log says more.",
    "UNKNOWN_FIELD": "The server is older than this command.",
    "UNKNOWN_METHOD": "The server is older than this command.",
  ]
}
