// The rules for the fields of a request (RFC 9113 sections 8.2 and 8.3).

/// Which bytes a name or a value may have.
package enum FieldText {
  // Bits 0 to 63 and 64 to 127 of what RFC 9110 section 5.6.2 calls a token: with and without capitals.
  private static let tokenLow: UInt64 = 0x03ff_6cfa_0000_0000
  private static let tokenHigh: UInt64 = 0x57ff_ffff_c7ff_fffe
  private static let lowerTokenHigh: UInt64 = 0x57ff_ffff_c000_0000

  private static func isIn(_ low: UInt64, _ high: UInt64, _ byte: UInt8) -> Bool {
    byte < 0x80 && (byte < 0x40 ? low : high) >> UInt64(byte & 0x3f) & 1 != 0
  }

  /// A field name (RFC 9113 section 8.2.1): a token without capitals.
  package static func isName(_ text: Span<UInt8>) -> Bool {
    for index in text.indices where !isIn(tokenLow, lowerTokenHigh, text[index]) { return false }
    return text.count > 0
  }

  /// A method (RFC 9110 section 9.1).
  package static func isToken(_ text: Span<UInt8>) -> Bool {
    for index in text.indices where !isIn(tokenLow, tokenHigh, text[index]) { return false }
    return text.count > 0
  }

  /// A field value (RFC 9110 section 5.5), without its rule for the ends: no control characters but tabs.
  package static func isValue(_ text: Span<UInt8>) -> Bool {
    for index in plainCount(text, below: 0x20)..<text.count {
      let byte = text[index]
      if (byte < 0x20 && byte != 0x09) || byte == 0x7f { return false }
    }
    return true
  }

  /// How many bytes in front are neither below `least` nor DEL nor above ASCII, by eights: one comparison
  /// for eight bytes of nearly every text there is. `least` is 128 at most.
  private static func plainCount(_ text: Span<UInt8>, below least: UInt64) -> Int {
    let ones: UInt64 = 0x0101_0101_0101_0101
    let tops = ones << 7
    return unsafe text.withUnsafeBytes { bytes in
      var next = 0
      while next + 8 <= bytes.count {
        // Within the bytes; the order of the eight does not matter.
        let eight = unsafe bytes.loadUnaligned(fromByteOffset: next, as: UInt64.self)
        // A top bit says: above ASCII; below `least`, as no carry comes from a byte that is not; DEL.
        let isOdd = eight | (eight &- ones &* least) | (eight &+ ones)
        if isOdd & tops != 0 { break }
        next += 8
      }
      return next
    }
  }

  /// Neither control characters nor blanks: what a path is held to.
  package static func isVisible(_ text: Span<UInt8>) -> Bool {
    for index in plainCount(text, below: 0x21)..<text.count
    where text[index] <= 0x20 || text[index] == 0x7f { return false }
    return true
  }

  /// Where a value lies between the blanks around it (RFC 9110 section 5.5: they are not part of it). RFC
  /// 9113 calls such a field malformed; gRPC's own servers take it.
  package static func trimmed(_ text: Span<UInt8>) -> Range<Int> {
    func isBlank(_ byte: UInt8) -> Bool { byte == 0x20 || byte == 0x09 }
    var first = 0
    var end = text.count
    while first < end, isBlank(text[first]) { first += 1 }
    while end > first, isBlank(text[end - 1]) { end -= 1 }
    return first..<end
  }
}

/// Looks at the fields of one header block, in order.
struct FieldCheck {
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

  mutating func add(_ name: Span<UInt8>, _ value: Span<UInt8>) {
    if name.count > 0 && name[0] == UInt8(ascii: ":") { return addPseudo(name, value) }
    sawRegular = true
    if !FieldText.isName(name) || !FieldText.isValue(value) {
      isMalformed = true
      return
    }
    // Section 8.2.2: fields that belong to a connection of HTTP/1.1.
    switch name.count {
    case 2: if name.says("te"), !Self.acceptsTrailers(value) { isMalformed = true }
    case 7: if name.says("upgrade") { isMalformed = true }
    case 10: if name.says("connection") || name.says("keep-alive") { isMalformed = true }
    case 14: if name.says("content-length") { addContentLength(value) }
    case 16: if name.says("proxy-connection") { isMalformed = true }
    case 17: if name.says("transfer-encoding") { isMalformed = true }
    default: break
    }
  }

  /// Section 8.3: known ones only, once each, before all others, and never in trailers.
  private mutating func addPseudo(
    _ name: Span<UInt8>, _ value: Span<UInt8>
  ) {
    let field: Pseudo
    let isGood: Bool
    if name.says(":method") {
      field = .method
      isGood = FieldText.isToken(value)
      isConnect = value.says("CONNECT")
    } else if name.says(":path") {
      field = .path
      isGood = value.count > 0 && FieldText.isVisible(value)
    } else if name.says(":scheme") {
      field = .scheme
      isGood = Self.isScheme(value)
    } else if name.says(":authority") {
      field = .authority
      // gRPC clients put into it whatever names their target, the path of a unix socket too.
      isGood = FieldText.isValue(value)
    } else {
      isMalformed = true
      return
    }
    if isTrailers || sawRegular || pseudo.contains(field) || !isGood { isMalformed = true }
    pseudo.insert(field)
  }

  /// RFC 3986 section 3.1.
  private static func isScheme(_ value: Span<UInt8>) -> Bool {
    for index in 0..<value.count {
      switch value[index] {
      case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"): break
      case UInt8(ascii: "0")...UInt8(ascii: "9"), UInt8(ascii: "+"), UInt8(ascii: "-"),
        UInt8(ascii: "."):
        if index == 0 { return false }
      default: return false
      }
    }
    return value.count > 0
  }

  private mutating func addContentLength(_ value: Span<UInt8>) {
    var length: Int64 = 0
    // 18 digits do not overflow, and no body is longer.
    guard value.count > 0, value.count <= 18 else {
      isMalformed = true
      return
    }
    for index in 0..<value.count {
      let digit = value[index]
      guard digit >= 48, digit <= 57 else {
        isMalformed = true
        return
      }
      length = length * 10 + Int64(digit - 48)
    }
    if contentLength >= 0, contentLength != length { isMalformed = true }
    contentLength = length
  }

  /// Whether `te` lists "trailers". RFC 9113 section 8.2.2 allows nothing else in it; gRPC's own servers
  /// look for that one, whatever a proxy or a client adds.
  private static func acceptsTrailers(_ value: Span<UInt8>) -> Bool {
    var start = 0
    while start < value.count {
      var end = start
      while end < value.count, value[end] != UInt8(ascii: ",") { end += 1 }
      var element = value.extracting(start..<end)
      element = element.extracting(FieldText.trimmed(element))
      if equalIgnoringCase(element, "trailers") { return true }
      start = end + 1
    }
    return false
  }

  private static func equalIgnoringCase(_ text: Span<UInt8>, _ wanted: StaticString) -> Bool {
    let wanted = unsafe wanted.bytes
    guard text.count == wanted.count else { return false }
    for index in text.indices where unsafe text[index] | 0x20 != wanted[index] { return false }
    return true
  }
}

extension Span where Element == UInt8 {
  /// Whether the bytes are those of `text`.
  func says(_ text: StaticString) -> Bool {
    let wanted = unsafe text.bytes
    guard count == wanted.count else { return false }
    // The last byte tells most names of equal length apart.
    if count > 0, unsafe self[count - 1] != wanted[count - 1] { return false }
    for index in 0..<count where unsafe self[index] != wanted[index] { return false }
    return true
  }
}
