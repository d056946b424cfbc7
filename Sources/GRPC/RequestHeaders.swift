// The header fields of a request: which of them are captured, and what they mean.
package import HTTP2

/// The header fields that gRPC itself looks at, in the order in which they are captured. The handler's
/// own metadata comes behind them.
package enum RequestField: Int, CaseIterable {
  case method = 0
  case path
  case contentType
  case encoding
  case acceptEncoding
  case timeout
  case traceParent

  /// The field's name on the wire.
  package var name: StaticString {
    switch self {
    case .method: ":method"
    case .path: ":path"
    case .contentType: "content-type"
    case .encoding: "grpc-encoding"
    case .acceptEncoding: "grpc-accept-encoding"
    case .timeout: "grpc-timeout"
    case .traceParent: "traceparent"
    }
  }
}

/// The content-type of every response.
package enum ContentType {
  package static let field = ConstantField("content-type", "application/grpc")

  /// application/grpc in any case, also with a suffix such as +proto or parameters behind it. gRPC's own
  /// servers take any suffix, and decode protobuf whatever it says.
  static func isGRPC(_ value: Span<UInt8>) -> Bool {
    let name = field.value
    let length = name.utf8CodeUnitCount
    guard value.count >= length else { return false }
    for index in 0..<length {
      let byte = value[index]
      let lower = byte >= 0x41 && byte <= 0x5a ? byte | 0x20 : byte
      if unsafe lower != name.utf8Start[index] { return false }
    }
    return value.count == length || value[length] == UInt8(ascii: ";")
      || value[length] == UInt8(ascii: "+")
  }
}

extension RequestHeaders {
  /// The trace that the call belongs to; none where the field is absent, came twice, or is none.
  package var traceParent: TraceParent {
    let field = RequestField.traceParent.rawValue
    guard stream.hasField(field), !stream.isFieldRepeated(field) else { return TraceParent() }
    return stream.withField(field) { TraceParent(field: $0) }
  }
}

/// A request's header fields, while its header block is decided about.
package struct RequestHeaders {
  private let stream: HTTP2.Stream
  /// The name in the certificate that the peer showed; nil without one.
  package let certificate: CertificateName?

  package init(_ stream: HTTP2.Stream, certificate: CertificateName?) {
    self.stream = stream
    self.certificate = certificate
  }

  /// Calls `body` with the value of the handler's metadata `index`, by `CallHandler.metadata`; empty where
  /// it is absent.
  package func withMetadata<Result>(_ index: Int, _ body: (Span<UInt8>) -> Result) -> Result {
    stream.withField(RequestField.allCases.count + index, body)
  }

  /// Whether the handler's metadata `index` came, and whether it came more than once.
  package func hasMetadata(_ index: Int) -> Bool {
    stream.hasField(RequestField.allCases.count + index)
  }
  package func isMetadataRepeated(_ index: Int) -> Bool {
    stream.isFieldRepeated(RequestField.allCases.count + index)
  }

  func with<Result>(_ field: RequestField, _ body: (Span<UInt8>) -> Result) -> Result {
    stream.withField(field.rawValue, body)
  }

  /// What gRPC makes of the fields, before the handler is asked who calls.
  package enum Meaning: Equatable {
    case call(
      method: Int, encoding: MessageEncoding, responseEncoding: MessageEncoding,
      timeoutNanoseconds: Int64)
    case reject(Rejection)
  }

  /// - Parameter number: finds the number of the method at a path.
  package func decide(number: (Span<UInt8>) -> Int?) -> Meaning {
    guard with(.method, { $0.equals("POST") }) else { return .reject(.notPost) }
    guard with(.contentType, { ContentType.isGRPC($0) }) else { return .reject(.wrongContentType) }
    guard let method = with(.path, number) else { return .reject(.unknownMethod) }
    guard let encoding = with(.encoding, { MessageEncoding(field: $0) }) else {
      return .reject(.unknownEncoding)
    }
    guard let timeout = Self.timeout(of: stream, otherwise: .max) else {
      return .reject(.malformedTimeout)
    }
    let accepted: MessageEncodings? =
      stream.hasField(RequestField.acceptEncoding.rawValue)
      ? with(.acceptEncoding) { MessageEncodings(field: $0) } : nil
    return .call(
      method: method, encoding: encoding,
      responseEncoding: .response(toRequest: encoding, accepting: accepted),
      timeoutNanoseconds: timeout)
  }
}

extension RequestHeaders {
  /// grpc-timeout in nanoseconds; `otherwise` where none was captured, nil where it is malformed. Clients
  /// send another one with each call, so of a call whose header block is known otherwise, it alone is.
  package static func timeout(of stream: HTTP2.Stream, otherwise: Int64) -> Int64? {
    guard stream.hasField(RequestField.timeout.rawValue) else { return otherwise }
    return stream.withField(RequestField.timeout.rawValue) { Timeout.nanoseconds($0) }
  }
}

extension Span<UInt8> {
  /// Whether these are the bytes of `text`.
  package func equals(_ text: StaticString) -> Bool {
    guard count == text.utf8CodeUnitCount else { return false }
    for index in indices where unsafe self[index] != text.utf8Start[index] { return false }
    return true
  }
}
