// The table that every HPACK peer has (RFC 7541 appendix A).

enum HPACKStaticTable {
  static let count = 61

  /// A field of the table; its bytes live for ever.
  struct Entry {
    let name: StaticString
    let value: StaticString
  }

  // One per process, never freed: decoders of all threads read it.
  nonisolated(unsafe) private static let table: UnsafePointer<Entry> = unsafe make()

  /// The field with this index, 1 to 61.
  static func entry(_ index: Int) -> Entry {
    precondition(index >= 1 && index <= count, "no such entry")
    return unsafe table[index - 1]
  }

  private static func make() -> UnsafePointer<Entry> {
    precondition(fields.count == count, "the table is whole")
    let made = UnsafeMutablePointer<Entry>.allocate(capacity: count)
    for (index, field) in fields.enumerated() {
      unsafe (made + index).initialize(to: Entry(name: field.0, value: field.1))
    }
    return unsafe UnsafePointer(made)
  }

  private static let fields: [(StaticString, StaticString)] = [
    (":authority", ""),
    (":method", "GET"),
    (":method", "POST"),
    (":path", "/"),
    (":path", "/index.html"),
    (":scheme", "http"),
    (":scheme", "https"),
    (":status", "200"),
    (":status", "204"),
    (":status", "206"),
    (":status", "304"),
    (":status", "400"),
    (":status", "404"),
    (":status", "500"),
    ("accept-charset", ""),
    ("accept-encoding", "gzip, deflate"),
    ("accept-language", ""),
    ("accept-ranges", ""),
    ("accept", ""),
    ("access-control-allow-origin", ""),
    ("age", ""),
    ("allow", ""),
    ("authorization", ""),
    ("cache-control", ""),
    ("content-disposition", ""),
    ("content-encoding", ""),
    ("content-language", ""),
    ("content-length", ""),
    ("content-location", ""),
    ("content-range", ""),
    ("content-type", ""),
    ("cookie", ""),
    ("date", ""),
    ("etag", ""),
    ("expect", ""),
    ("expires", ""),
    ("from", ""),
    ("host", ""),
    ("if-match", ""),
    ("if-modified-since", ""),
    ("if-none-match", ""),
    ("if-range", ""),
    ("if-unmodified-since", ""),
    ("last-modified", ""),
    ("link", ""),
    ("location", ""),
    ("max-forwards", ""),
    ("proxy-authenticate", ""),
    ("proxy-authorization", ""),
    ("range", ""),
    ("referer", ""),
    ("refresh", ""),
    ("retry-after", ""),
    ("server", ""),
    ("set-cookie", ""),
    ("strict-transport-security", ""),
    ("transfer-encoding", ""),
    ("user-agent", ""),
    ("vary", ""),
    ("via", ""),
    ("www-authenticate", ""),
  ]
}

extension StaticString {
  /// The text's bytes, which live for ever.
  var bytes: UnsafeBufferPointer<UInt8> {
    unsafe UnsafeBufferPointer(start: utf8Start, count: utf8CodeUnitCount)
  }
}
