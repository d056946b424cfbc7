// The rules for the fields of a request (RFC 9113 sections 8.2 and 8.3).
internal import CNGHTTP2

/// Looks at the fields of one header block, in order.
@safe struct FieldCheck {
  private struct Pseudo: OptionSet {
    let rawValue: UInt8
    static let method = Pseudo(rawValue: 1)
    static let scheme = Pseudo(rawValue: 2)
    static let path = Pseudo(rawValue: 4)
    static let authority = Pseudo(rawValue: 8)
  }

  private let isTrailers: Bool
  private var pseudo: Pseudo = []
  private var sawRegular = false
  private var isConnect = false
  private(set) var isMalformed = false
  /// Bytes of the list as section 6.5.2 counts them.
  var listBytes = 0
  /// The list is longer than allowed; fields beyond were not looked at.
  var isTooLarge = false
  /// The content-length field; -1 without one.
  private(set) var contentLength: Int64 = -1

  init(isTrailers: Bool) { self.isTrailers = isTrailers }

  /// Section 8.3.1: a request has :method, :scheme and :path. CONNECT has neither of the last two, and
  /// then the owner refuses its method.
  var isGoodRequest: Bool {
    if isMalformed { return false }
    if isConnect {
      return pseudo.isDisjoint(with: [.scheme, .path]) && pseudo.contains(.authority)
    }
    return pseudo.isSuperset(of: [.method, .scheme, .path])
  }

  mutating func add(_ name: UnsafeBufferPointer<UInt8>, _ value: UnsafeBufferPointer<UInt8>) {
    if unsafe name.count > 0 && name[0] == UInt8(ascii: ":") {
      unsafe addPseudo(name, value)
      return
    }
    sawRegular = true
    // Section 8.2.1: names are lower-case tokens, not empty; values have no control characters and no
    // white space at the ends.
    if unsafe nghttp2_check_header_name(name.baseAddress, name.count) == 0
      || nghttp2_check_header_value_rfc9113(value.baseAddress, value.count) == 0
    {
      isMalformed = true
      return
    }
    // Section 8.2.2: fields that belong to a connection of HTTP/1.1.
    switch name.count {
    case 2:
      if unsafe Self.equal(name, "te"), unsafe !Self.equalIgnoringCase(value, "trailers") {
        isMalformed = true
      }
    case 7: if unsafe Self.equal(name, "upgrade") { isMalformed = true }
    case 10:
      if unsafe Self.equal(name, "connection") || Self.equal(name, "keep-alive") {
        isMalformed = true
      }
    case 14: if unsafe Self.equal(name, "content-length") { unsafe addContentLength(value) }
    case 16: if unsafe Self.equal(name, "proxy-connection") { isMalformed = true }
    case 17: if unsafe Self.equal(name, "transfer-encoding") { isMalformed = true }
    default: break
    }
  }

  /// Section 8.3: known ones only, once each, before all others, and never in trailers.
  private mutating func addPseudo(
    _ name: UnsafeBufferPointer<UInt8>, _ value: UnsafeBufferPointer<UInt8>
  ) {
    let field: Pseudo
    let isGood: Bool
    if unsafe Self.equal(name, ":method") {
      field = .method
      isGood = unsafe nghttp2_check_method(value.baseAddress, value.count) != 0
      isConnect = unsafe Self.equal(value, "CONNECT")
    } else if unsafe Self.equal(name, ":path") {
      field = .path
      isGood = unsafe value.count > 0 && nghttp2_check_path(value.baseAddress, value.count) != 0
    } else if unsafe Self.equal(name, ":scheme") {
      field = .scheme
      isGood = unsafe Self.isScheme(value)
    } else if unsafe Self.equal(name, ":authority") {
      field = .authority
      isGood = unsafe nghttp2_check_authority(value.baseAddress, value.count) != 0
    } else {
      isMalformed = true
      return
    }
    if isTrailers || sawRegular || pseudo.contains(field) || !isGood { isMalformed = true }
    pseudo.insert(field)
  }

  /// RFC 3986 section 3.1.
  private static func isScheme(_ value: UnsafeBufferPointer<UInt8>) -> Bool {
    for index in 0..<value.count {
      switch unsafe value[index] {
      case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"): break
      case UInt8(ascii: "0")...UInt8(ascii: "9"), UInt8(ascii: "+"), UInt8(ascii: "-"),
        UInt8(ascii: "."):
        if index == 0 { return false }
      default: return false
      }
    }
    return value.count > 0
  }

  private mutating func addContentLength(_ value: UnsafeBufferPointer<UInt8>) {
    var length: Int64 = 0
    // 18 digits do not overflow, and no body is longer.
    guard value.count > 0, value.count <= 18 else {
      isMalformed = true
      return
    }
    for index in 0..<value.count {
      let digit = unsafe value[index]
      guard digit >= 48, digit <= 57 else {
        isMalformed = true
        return
      }
      length = length * 10 + Int64(digit - 48)
    }
    if contentLength >= 0, contentLength != length { isMalformed = true }
    contentLength = length
  }

  static func equal(_ bytes: UnsafeBufferPointer<UInt8>, _ text: StaticString) -> Bool {
    let count = text.utf8CodeUnitCount
    guard bytes.count == count else { return false }
    // The last byte tells most names of equal length apart.
    if count > 0, unsafe bytes[count - 1] != text.utf8Start[count - 1] { return false }
    for index in 0..<count where unsafe bytes[index] != text.utf8Start[index] { return false }
    return true
  }

  private static func equalIgnoringCase(
    _ bytes: UnsafeBufferPointer<UInt8>, _ text: StaticString
  ) -> Bool {
    guard bytes.count == text.utf8CodeUnitCount else { return false }
    for index in 0..<bytes.count where unsafe bytes[index] | 0x20 != text.utf8Start[index] {
      return false
    }
    return true
  }
}
