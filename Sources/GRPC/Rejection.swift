/// Why a call is answered with an error that the loop makes, not the method: the request breaks the
/// gRPC protocol, or the server cannot take it. The handler writes the response (`CallHandler.reject`),
/// so that these errors carry the same details as its own.
package enum Rejection: Int, CaseIterable, Sendable {
  /// The server has too much to do.
  case overloaded
  case shuttingDown
  case notPost
  case wrongContentType
  case headerListTooLarge
  case unknownMethod
  /// grpc-encoding is none that is taken.
  case unknownEncoding
  case malformedTimeout
  /// The deadline passed before the call was executed.
  case deadlineExceeded
  /// The request did not become whole in time.
  case requestTimeout
  case messageTooLarge
  /// A call that takes one message got none.
  case noMessage
  case tooManyMessages
  /// The request ends inside a message.
  case messageCutOff
  /// The prefix says compressed, and grpc-encoding was not sent.
  case compressedMessage
  case malformedPrefix
  /// A compressed message cannot be inflated.
  case malformedCompression
  /// The connection, or the loop, has as many streaming calls as it may have.
  case tooManyStreams

  /// The gRPC status (the codes that other gRPC servers answer with).
  package var code: StatusCode {
    switch self {
    case .overloaded, .shuttingDown: .unavailable
    case .notPost, .wrongContentType: .unknown
    case .headerListTooLarge, .messageTooLarge, .tooManyStreams: .resourceExhausted
    case .unknownMethod, .unknownEncoding, .tooManyMessages: .unimplemented
    case .deadlineExceeded, .requestTimeout: .deadlineExceeded
    case .malformedTimeout, .noMessage, .messageCutOff, .compressedMessage, .malformedPrefix,
      .malformedCompression:
      .internal
    }
  }

  /// The HTTP status: an error for what is not gRPC at all (gRPC over HTTP/2: a wrong content-type is
  /// 415).
  package var httpStatus: Int {
    switch self {
    case .notPost: 405
    case .wrongContentType: 415
    default: 200
    }
  }

  /// The reason in ErrorInfo, as proto/holdfast/v1/reservation.proto lists them.
  package var reason: StaticString {
    switch self {
    case .overloaded: "OVERLOADED"
    case .shuttingDown: "SHUTTING_DOWN"
    case .notPost, .wrongContentType: "NOT_GRPC"
    case .headerListTooLarge: "METADATA_TOO_LARGE"
    case .unknownMethod: "UNKNOWN_METHOD"
    case .unknownEncoding: "COMPRESSION_UNSUPPORTED"
    case .malformedTimeout: "MALFORMED_TIMEOUT"
    case .deadlineExceeded: "DEADLINE_EXCEEDED"
    case .requestTimeout: "REQUEST_TIMEOUT"
    case .messageTooLarge: "MESSAGE_TOO_LARGE"
    case .noMessage, .tooManyMessages, .messageCutOff, .compressedMessage, .malformedPrefix,
      .malformedCompression:
      "MALFORMED_FRAMING"
    case .tooManyStreams: "TOO_MANY_STREAMS"
    }
  }

  /// The grpc-message.
  package var text: StaticString {
    switch self {
    case .overloaded: "the server is overloaded"
    case .shuttingDown: "the server is shutting down"
    case .notPost: "method is not POST"
    case .wrongContentType: "content-type is not application/grpc"
    case .headerListTooLarge: "header list too large"
    case .unknownMethod: "unknown service or method"
    case .unknownEncoding: "grpc-encoding is none of identity, deflate and gzip"
    case .malformedTimeout: "malformed grpc-timeout"
    case .deadlineExceeded: "deadline exceeded before the call was executed"
    case .requestTimeout: "the request was not whole in time"
    case .messageTooLarge: "message larger than the limit"
    case .noMessage: "a unary call without a message"
    case .tooManyMessages: "more than one message in a unary call"
    case .messageCutOff: "the message is cut off"
    case .compressedMessage: "a compressed message without grpc-encoding"
    case .malformedPrefix: "malformed message prefix"
    case .malformedCompression: "a compressed message that cannot be inflated"
    case .tooManyStreams: "too many streaming calls"
    }
  }
}
