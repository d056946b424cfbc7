/// The fields of a header block, as far as responses are made of it (RFC 7541): literals without
/// indexing and without Huffman coding, and :status. nil where it is anything else.
func headerFields(of block: [UInt8]) -> [[String]]? {
  var rest = block[...]
  func integer() -> Int? {
    guard let first = rest.popFirst() else { return nil }
    if first < 127 { return Int(first) }
    guard first == 127 else { return nil }
    var value = 127
    var shift = 0
    while let byte = rest.popFirst() {
      value += Int(byte & 127) << shift
      shift += 7
      if byte < 128 { return value }
    }
    return nil
  }
  func string() -> String? {
    guard let length = integer(), rest.count >= length else { return nil }
    defer { rest = rest.dropFirst(length) }
    return String(decoding: rest.prefix(length), as: UTF8.self)
  }
  var fields: [[String]] = []
  while let first = rest.popFirst() {
    switch first {
    case 0x88: fields.append([":status", "200"])
    case 8:
      guard let value = string() else { return nil }
      fields.append([":status", value])
    case 0:
      guard let name = string(), let value = string() else { return nil }
      fields.append([name, value])
    default: return nil
    }
  }
  return fields
}
