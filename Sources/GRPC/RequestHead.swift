/// The header fields that decide what becomes of a call.
package enum RequestField: Int, CaseIterable {
  case method = 0
  case path
  case contentType
  case encoding
  case caller
  case timeout

  /// The field's name on the wire.
  package var name: StaticString {
    switch self {
    case .method: ":method"
    case .path: ":path"
    case .contentType: "content-type"
    case .encoding: "grpc-encoding"
    case .caller: "holdfast-caller"
    case .timeout: "grpc-timeout"
    }
  }
}

/// What a request's header fields say: call this method, or reject the call.
package enum RequestHead: Equatable {
  case call(method: Int)
  case reject(Rejection)

  /// The head as a number, to be kept with a stream: a method's number, or below zero a rejection.
  package var code: Int32 {
    switch self {
    case .call(let method): Int32(clamping: method)
    case .reject(let rejection): -1 - Int32(clamping: rejection.rawValue)
    }
  }

  package init(code: Int32) {
    self =
      code >= 0
      ? .call(method: Int(code))
      : .reject(Rejection(rawValue: -1 - Int(code)) ?? .unknownMethod)
  }

  /// Decides. Absent fields are empty. `method` finds the number of the method at a path.
  package static func decide(
    method: Span<UInt8>, path: Span<UInt8>, contentType: Span<UInt8>, encoding: Span<UInt8>,
    number: (Span<UInt8>) -> Int?
  ) -> RequestHead {
    guard method.equals("POST") else { return .reject(.notPost) }
    guard isGRPC(contentType) else { return .reject(.wrongContentType) }
    guard let number = number(path) else { return .reject(.unknownMethod) }
    guard encoding.isEmpty || encoding.equals("identity") else {
      return .reject(.compressed)
    }
    return .call(method: number)
  }

  /// application/grpc, also with a +proto suffix or parameters behind it; other message formats such
  /// as +json are not spoken here.
  private static func isGRPC(_ contentType: Span<UInt8>) -> Bool {
    let name: StaticString = "application/grpc"
    let length = name.utf8CodeUnitCount
    guard contentType.count >= length, contentType.extracting(0..<length).equals(name) else {
      return false
    }
    let rest = contentType.extracting(length..<contentType.count)
    if rest.isEmpty || rest[0] == UInt8(ascii: ";") { return true }
    let proto: StaticString = "+proto"
    let end = proto.utf8CodeUnitCount
    guard rest.count >= end, rest.extracting(0..<end).equals(proto) else { return false }
    return rest.count == end || rest[end] == UInt8(ascii: ";")
  }
}

extension Span<UInt8> {
  /// Whether these are the bytes of `text`.
  func equals(_ text: StaticString) -> Bool {
    guard count == text.utf8CodeUnitCount else { return false }
    for index in indices where unsafe self[index] != text.utf8Start[index] { return false }
    return true
  }
}
