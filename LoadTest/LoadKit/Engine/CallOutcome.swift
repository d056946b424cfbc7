// What an answer counts as in reports.
internal import GRPC
internal import LoadHistory
internal import LoadReport

extension Outcome {
  /// How a call ended.
  ///
  /// - Parameters:
  ///   - reply: what its answer means.
  ///   - method: of the call.
  ///   - answer: as it came.
  init(_ reply: Reply, _ method: Method, _ answer: ClientResponse) {
    self = Outcome.of(reply, method, answer)
  }

  /// How one Reserve of a message of many ended, by its own result.
  init(_ result: ReserveResult) {
    switch result.reply {
    case .noEffect: self = .tooBusy
    case .unknown: self = result.code == 0 ? .malformed : .otherFailure
    case .accepted, .refused, .read: self = Outcome.decided(result.reply, .reserve) ?? .malformed
    }
  }

  /// nil where nothing was decided, as far as anybody knows.
  private static func decided(_ reply: Reply, _ method: Method) -> Outcome? {
    switch reply {
    case .accepted(_, _, true, _): return .replayed
    case .accepted: return done(method)
    case .read: return .read
    case .refused(let refusal):
      switch refusal.reason {
      case .insufficientStock: return .insufficientStock
      case .limitExceeded: return .limitExceeded
      case .reservationExpired: return .expired
      default: return .otherRefusal
      }
    case .noEffect, .unknown: return nil
    }
  }

  private static func of(_ reply: Reply, _ method: Method, _ answer: ClientResponse) -> Outcome {
    switch reply {
    case .accepted, .read, .refused: return decided(reply, method) ?? .malformed
    case .noEffect: return answer.outcome == .unprocessed ? .unprocessed : .tooBusy
    case .unknown:
      switch answer.outcome {
      case .answered: return answer.status == .ok ? .malformed : .otherFailure
      case .malformed: return .malformed
      case .reset: return .reset
      case .unprocessed: return .unprocessed
      case .lost: return .lost
      }
    }
  }

  private static func done(_ method: Method) -> Outcome {
    switch method {
    case .reserve, .batchReserve, .reserveStream: .reserved
    case .replace: .replaced
    case .confirm: .confirmed
    case .release: .released
    case .extend: .extended
    case .adjustStock: .restocked
    case .getStock, .batchGetStock: .read
    }
  }
}
