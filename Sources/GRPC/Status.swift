/// The gRPC status codes (grpc/grpc doc/statuscodes.md).
package enum StatusCode: Int, CaseIterable, Sendable, BitwiseCopyable {
  case ok = 0
  case cancelled
  case unknown
  case invalidArgument
  case deadlineExceeded
  case notFound
  case alreadyExists
  case permissionDenied
  case resourceExhausted
  case failedPrecondition
  case aborted
  case outOfRange
  case unimplemented
  case `internal`
  case unavailable
  case dataLoss
  case unauthenticated
}

extension StatusCode {
  /// The text of grpc-status: one or two digits. nil where it is empty or none of the codes.
  package init?(field: Span<UInt8>) {
    guard field.count == 1 || field.count == 2 else { return nil }
    var code = 0
    for index in field.indices {
      guard field[index] >= 0x30, field[index] <= 0x39 else { return nil }
      code = code * 10 + Int(field[index] - 0x30)
    }
    self.init(rawValue: code)
  }

  /// What a response without grpc-status means by its HTTP status (grpc/grpc
  /// doc/http-grpc-status-mapping.md).
  package init(httpStatus: Int) {
    switch httpStatus {
    case 400: self = .internal
    case 401: self = .unauthenticated
    case 403: self = .permissionDenied
    case 404: self = .unimplemented
    case 429, 502, 503, 504: self = .unavailable
    default: self = .unknown
    }
  }

  /// What RST_STREAM with this error code means to a client (gRPC over HTTP/2, Errors).
  package init(resetCode: UInt32) {
    switch resetCode {
    // NO_ERROR, PROTOCOL_ERROR, INTERNAL_ERROR, FLOW_CONTROL_ERROR, SETTINGS_TIMEOUT,
    // FRAME_SIZE_ERROR, COMPRESSION_ERROR, CONNECT_ERROR.
    case 0, 1, 2, 3, 4, 6, 9, 10: self = .internal
    // REFUSED_STREAM.
    case 7: self = .unavailable
    // CANCEL.
    case 8: self = .cancelled
    // ENHANCE_YOUR_CALM.
    case 11: self = .resourceExhausted
    // INADEQUATE_SECURITY.
    case 12: self = .permissionDenied
    default: self = .unknown
    }
  }
}
