import GRPCCore
import GRPCProtobuf

/// A call that ended with an error: its status, and what the server says about it.
struct Refused: Error {
  let call: String
  let error: RPCError
  /// Of the server; nil where the error is the client's own.
  let status: GoogleRPCStatus?

  init(_ call: String, _ error: RPCError) {
    self.call = call
    self.error = error
    status = try? error.unpackGoogleRPCStatus()
  }

  private var info: ErrorDetails.ErrorInfo? {
    status?.details.lazy.compactMap(\.errorInfo).first
  }

  var reason: String { info?.reason ?? error.code.name }

  var isReplay: Bool { info?.metadata["replayed"] == "true" }

  /// Of the calls of a checkout these two codes are decisions; all others say that none was made.
  var isDecision: Bool {
    info != nil && (error.code == .failedPrecondition || error.code == .notFound)
  }

  func explain() {
    say("refused \(call): \(error.code.name)")
    guard let status else {
      // Not from the server: for people who look for what is wrong with the connection.
      complain("\(error)")
      return
    }
    say("  message \(status.message)")
    if let info {
      let values = info.metadata.sorted { $0.key < $1.key }.map { "\($0.key)=\($0.value)" }
      say("  reason \(info.reason)" + (values.isEmpty ? "" : ": \(values.joined(separator: ", "))"))
    }
    for detail in status.details {
      if let retry = detail.retryInfo {
        say("  retry after \(Int((retry.delay / .milliseconds(1)).rounded())) ms")
      }
      for each in detail.preconditionFailure?.violations ?? [] {
        say("  failed \(each.subject): \(each.violationDescription)")
      }
      for each in detail.badRequest?.violations ?? [] {
        say("  field \(each.field): \(each.violationDescription)")
      }
    }
  }
}

extension RPCError {
  /// Every error of the server has details.
  var isOfTheServer: Bool { (try? unpackGoogleRPCStatus()) != nil }
}

extension RPCError.Code {
  /// As in gRPC's documents: FAILED_PRECONDITION.
  var name: String {
    if self == .internalError { return "INTERNAL" }
    return description.reduce(into: "") { name, letter in
      name += letter.isUppercase ? "_\(letter)" : letter.uppercased()
    }
  }
}
