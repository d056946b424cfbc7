// From what came over HTTP/2 to what the ledger takes down.
internal import GRPC
internal import LoadHistory

extension Reply {
  /// Reads the answer to one call of a run.
  init(
    _ answer: ClientResponse, to method: Method, _ calls: borrowing ClientCalls, _ names: SKUNames
  ) {
    switch answer.outcome {
    case .answered where answer.status == .ok:
      self = calls.withMessage(of: answer) { Reply(message: $0, of: method, names) }
    case .answered:
      let code = UInt8(truncatingIfNeeded: answer.status.rawValue)
      self = calls.withStatusDetails(of: answer) { details in
        Reply(refusal: Refusal(code: code, details: details, names))
      }
    case .unprocessed: self = .noEffect
    case .malformed, .reset, .lost: self = .unknown
    }
  }
}
