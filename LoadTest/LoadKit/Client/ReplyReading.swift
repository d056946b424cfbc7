// From what came over HTTP/2 to what the ledger takes down.
internal import HTTP2
internal import LoadHistory

extension Reply {
  /// Reads the answer to one call of a run.
  init(
    _ answer: ClientAnswer, to method: Method, _ http: borrowing ClientConnection, _ names: SKUNames
  ) {
    switch answer.outcome {
    case .answered where answer.grpcStatus == 0:
      self = http.withMessage(of: answer) { Reply(message: $0, of: method) }
    case .answered:
      let code = UInt8(truncatingIfNeeded: answer.grpcStatus)
      self = http.withStatusDetails(of: answer) { details in
        Reply(refusal: Refusal(code: code, details: details, names))
      }
    case .unprocessed: self = .noEffect
    case .malformed, .reset, .lost: self = .unknown
    }
  }
}
