// grpc.reflection: serves the descriptors of the .proto files, so that grpcurl and its like need none.
internal import Bytes
internal import CHoldfastProto
internal import GRPC
internal import StockStore

/// Answers ServerReflectionRequests. v1 and v1alpha are the same messages under two names.
final class ReflectionService {
  /// One file of the descriptor set, serialized, and what it defines.
  private struct File {
    let name: String
    let bytes: [UInt8]
    let dependencies: [String]
    let symbols: Set<String>
    /// The symbols that are messages.
    let messages: Set<String>
  }

  private let services: [String]
  private let files: [String: File]

  init(services: [String]) {
    self.services = services
    // The array is the program's own, generated with its size.
    let set = unsafe UnsafeBufferPointer(
      start: holdfast_descriptors_start(), count: holdfast_descriptors_size)
    var files: [String: File] = [:]
    for field in WireFields(unsafe Array(set)) where field.number == 1 {
      let file = Self.file(field.bytes)
      files[file.name] = file
    }
    self.files = files
  }

  /// Answers one request: valid_host = 1, original_request = 2, then one of 4 to 7. False where it is
  /// malformed.
  func answer(_ message: Span<UInt8>, response: Response) -> Bool {
    var reader = unsafe ProtoReader(message.borrowed, refusesUnknown: false)
    guard let request = ReflectionRequest(&reader) else { return false }
    let writer = response.message
    writer.field(1, request.host)
    writer.field(2, message)
    let text = unsafe String(decoding: request.text.pointer, as: UTF8.self)
    switch request.kind {
    case .fileByName: write(files[text], writer)
    case .fileContainingSymbol: write(files.values.first { $0.symbols.contains(text) }, writer)
    case .fileContainingExtension:
      // proto3 has no extensions.
      writeError(.notFound, "no extensions", writer)
    case .extensionNumbers: writeExtensions(of: text, writer)
    case .services:
      writer.nested(6) {
        for service in services { writer.nested(1) { writer.nested(1) { writer.text(service) } } }
      }
    case .nothing: writeError(.invalidArgument, "empty request", writer)
    }
    return true
  }

  /// FileDescriptorResponse: the file first, then everything that it imports.
  private func write(_ file: File?, _ writer: ProtoWriter) {
    guard let file else { return writeError(.notFound, "not found", writer) }
    var seen: Set<String> = [file.name]
    var queue = [file]
    writer.nested(4) {
      while !queue.isEmpty {
        let next = queue.removeFirst()
        writer.field(1, next.bytes.span)
        for name in next.dependencies where seen.insert(name).inserted {
          if let dependency = files[name] { queue.append(dependency) }
        }
      }
    }
  }

  /// ExtensionNumberResponse: none, for every message there is. Clients ask before they show an error's
  /// details, and show bytes where this is an error.
  private func writeExtensions(of message: String, _ writer: ProtoWriter) {
    guard files.values.contains(where: { $0.messages.contains(message) }) else {
      return writeError(.notFound, "not found", writer)
    }
    writer.nested(5) { writer.field(1, Array(message.utf8).span) }
  }

  private func writeError(_ code: StatusCode, _ text: StaticString, _ writer: ProtoWriter) {
    writer.nested(7) {
      writer.field(1, UInt64(code.rawValue))
      writer.field(2, text)
    }
  }

  /// FileDescriptorProto: name = 1, package = 2, dependency = 3, message = 4, enum = 5, service = 6.
  private static func file(_ bytes: [UInt8]) -> File {
    var name = ""
    var package = ""
    var dependencies: [String] = []
    var symbols: Set<String> = []
    var messages: Set<String> = []
    for field in WireFields(bytes) {
      switch field.number {
      case 1: name = field.text
      case 2: package = field.text
      case 3: dependencies.append(field.text)
      case 4: addMessage(field.bytes, scope: package, to: &symbols, &messages)
      case 5: symbols.insert("\(package).\(WireFields(field.bytes).name)")
      case 6:
        let service = "\(package).\(WireFields(field.bytes).name)"
        symbols.insert(service)
        for method in WireFields(field.bytes) where method.number == 2 {
          symbols.insert("\(service).\(WireFields(method.bytes).name)")
        }
      default: break
      }
    }
    return File(
      name: name, bytes: bytes, dependencies: dependencies, symbols: symbols, messages: messages)
  }

  /// DescriptorProto: name = 1, field = 2, nested message = 3, nested enum = 4.
  private static func addMessage(
    _ bytes: [UInt8], scope: String, to symbols: inout Set<String>, _ messages: inout Set<String>
  ) {
    let message = "\(scope).\(WireFields(bytes).name)"
    symbols.insert(message)
    messages.insert(message)
    for field in WireFields(bytes) {
      switch field.number {
      case 2, 4: symbols.insert("\(message).\(WireFields(field.bytes).name)")
      case 3: addMessage(field.bytes, scope: message, to: &symbols, &messages)
      default: break
      }
    }
  }
}

/// A ServerReflectionRequest: host = 1, and one of message_request = 3 to 7.
private struct ReflectionRequest {
  enum Kind {
    case nothing, fileByName, fileContainingSymbol, fileContainingExtension, extensionNumbers
    case services
  }

  private(set) var host = BorrowedBytes.empty
  private(set) var kind = Kind.nothing
  /// What `kind` asks about.
  private(set) var text = BorrowedBytes.empty

  /// nil where the message is malformed.
  init?(_ reader: inout ProtoReader) {
    while let tag = reader.next() {
      switch tag {
      case .bytes(1): host = reader.bytes()
      case .bytes(3): (kind, text) = (.fileByName, reader.bytes())
      case .bytes(4): (kind, text) = (.fileContainingSymbol, reader.bytes())
      case .bytes(5): readExtension(&reader)
      case .bytes(6): (kind, text) = (.extensionNumbers, reader.bytes())
      case .bytes(7): (kind, text) = (.services, reader.bytes())
      case .bytes(2): reader.other(tag, known: 1...1)
      default: reader.other(tag, known: 1...7)
      }
    }
    if !reader.isWhole { return nil }
  }

  /// An ExtensionRequest: containing_type = 1, extension_number = 2. No answer depends on them.
  private mutating func readExtension(_ reader: inout ProtoReader) {
    kind = .fileContainingExtension
    let submessage = reader.enter()
    while let tag = reader.next() {
      switch tag {
      case .bytes(1): _ = reader.bytes()
      case .varint(2): _ = reader.int32()
      default: reader.other(tag, known: 1...2)
      }
    }
    reader.leave(submessage, "file_containing_extension")
  }
}

/// The length-delimited fields of a message; others are passed over. For our own descriptors only,
/// which protoc wrote; what cannot be read ends the sequence.
private struct WireFields: Sequence, IteratorProtocol {
  struct Field {
    let number: Int
    let bytes: [UInt8]
    var text: String { String(decoding: bytes, as: UTF8.self) }
  }

  private let bytes: [UInt8]
  private var position = 0

  init(_ bytes: [UInt8]) { self.bytes = bytes }

  /// Field 1, which is the name in every kind of descriptor.
  var name: String { first { $0.number == 1 }?.text ?? "" }

  mutating func next() -> Field? {
    while let tag = varint() {
      switch tag & 7 {
      case 0: _ = varint()
      case 1: position += 8
      case 5: position += 4
      case 2:
        guard let length = varint(), length <= UInt64(bytes.count - position) else { return nil }
        let field = Field(
          number: Int(tag >> 3), bytes: Array(bytes[position..<position + Int(length)]))
        position += Int(length)
        return field
      default: return nil
      }
    }
    return nil
  }

  private mutating func varint() -> UInt64? {
    var value: UInt64 = 0
    var shift: UInt64 = 0
    while position < bytes.count, shift < 64 {
      let byte = bytes[position]
      position += 1
      value |= UInt64(byte & 0x7f) << shift
      if byte < 0x80 { return value }
      shift += 7
    }
    return nil
  }
}
