// The token file: who may call, and what. Made for people: one entry a line, in words, so that it can be
// commented, sorted, reviewed and compared, and so that a line that is taken away is a caller that is
// out.
//
//   # The checkout; renewed every quarter.
//   token sha256:9f86d081…0a08 caller=checkout role=reserve own-holds-only expires=2027-01-31
//   token sha256:60303ae2…6752 caller=warehouse role=stock note=Ann, floor 2
//   cert  uri:spiffe://shop/reports caller=reports role=read
//   cert  dns:till.shop.example     caller=till role=reserve
//
// A line is empty, a comment (its first character that is no blank is #), or an entry: words between
// blanks or tabs. First what is recognised:
//
//   token sha256:HEX   the SHA-256 of the whole token, 64 hexadecimal digits. The token itself is not here
//   cert  KIND:NAME    a name in a client certificate that --tls-client-ca vouches for; KIND is uri or dns
//                      for a subject alternative name, cn for the subject's common name; of a byte that is
//                      blank, not ASCII or %, NAME has % and two hexadecimal digits
//
// then, each at most once and in any order:
//
//   caller=NAME      0 to 64 bytes of printable ASCII; may be left out: the caller without a name
//   role=ROLE        read, reserve, stock or admin; each may do what those before it may. Needed
//   own-holds-only   Confirm, Release, Extend and Replace only what was reserved under this caller's name
//   expires=TIME     good before that moment: 2027-01-31T12:00:00Z, or a day, which is its beginning
//   note=TEXT        for people, up to the end of the line
//
// A caller may have several entries, such as an old token beside the one that replaces it. Of a token or a
// certificate's name there is one entry at most. The file is UTF-8; lines end with LF or CRLF.

internal import Posix

/// How much of a token file is taken. The values and the reasons for them stand in the program's
/// Limits.swift.
package struct AccessLimits: Sendable {
  package var entriesMax: Int
  package var fileBytesMax: Int
  /// Longest token, in bytes; what is longer is not even hashed.
  package var tokenBytesMax: Int

  package init(entriesMax: Int, fileBytesMax: Int, tokenBytesMax: Int) {
    self.entriesMax = entriesMax
    self.fileBytesMax = fileBytesMax
    self.tokenBytesMax = tokenBytesMax
  }
}

/// One entry of a token file.
package struct TokenFileEntry: Equatable, Sendable {
  package enum Subject: Hashable, Sendable {
    case token(Digest)
    /// `KIND:NAME`, decoded, as the transport hands it over.
    case certificate(String)
  }

  package var subject: Subject
  package var caller = ""
  package var role: Role
  package var ownHoldsOnly = false
  /// nil: never.
  package var expires: AccessTime?
  package var note: String?
  /// From 1; 0 where it is in no file yet.
  package var line = 0

  package init(subject: Subject, caller: String, role: Role) {
    self.subject = subject
    self.caller = caller
    self.role = role
  }

  /// What people name it by, in `holdfast token`.
  package var id: String {
    switch subject {
    case .token(let digest): digest.id
    case .certificate(let name): TokenFile.encoded(name)
    }
  }

  /// The entry as a line, without its end.
  package var text: String {
    switch subject {
    case .token(let digest): "token sha256:\(digest.hexadecimal) \(attributes)"
    case .certificate(let name): "cert \(TokenFile.encoded(name)) \(attributes)"
    }
  }

  /// The words behind the subject.
  package var attributes: String {
    var words = ["caller=" + caller, "role=\(role.name)"]
    if ownHoldsOnly { words.append("own-holds-only") }
    if let expires { words.append("expires=\(expires)") }
    if let note { words.append("note=" + note) }
    return words.joined(separator: " ")
  }
}

package enum TokenFile {
  /// An entry is some 150 bytes; a note may be a sentence.
  static let lineBytesMax = 2048
  private static let kinds = ["uri:", "dns:", "cn:"]

  /// Reads a whole file.
  /// - Throws: the first mistake with its line. Nothing of the file's text: a token may stand where it
  ///   does not belong.
  package static func parse(
    _ bytes: [UInt8], limits: AccessLimits
  ) throws(AccessError) -> [TokenFileEntry] {
    guard bytes.count <= limits.fileBytesMax else {
      throw AccessError("longer than \(limits.fileBytesMax) bytes")
    }
    var entries: [TokenFileEntry] = []
    var lineOf: [TokenFileEntry.Subject: Int] = [:]
    // Split as bytes: to Swift's characters, CR LF is one.
    for (index, bytes) in bytes.split(separator: 0x0a, omittingEmptySubsequences: false)
      .enumerated()
    {
      let number = index + 1
      do throws(AccessError) {
        guard var entry = try entry(bytes) else { continue }
        entry.line = number
        if let other = lineOf.updateValue(number, forKey: entry.subject) {
          throw AccessError("the same token or certificate as in line \(other)")
        }
        guard entries.count < limits.entriesMax else {
          throw AccessError("one more than \(limits.entriesMax) entries")
        }
        entries.append(entry)
      } catch {
        throw AccessError("line \(number): \(error.description)")
      }
    }
    return entries
  }

  /// The same, with the file's path before the mistake.
  static func parse(
    _ bytes: [UInt8], path: String, limits: AccessLimits
  ) throws(AccessError) -> [TokenFileEntry] {
    do throws(AccessError) {
      return try parse(bytes, limits: limits)
    } catch {
      throw AccessError("\(path): \(error.description)")
    }
  }

  /// A whole file, one byte more than allowed where it is longer.
  static func read(_ path: String, _ limits: AccessLimits) throws(AccessError) -> FileContents {
    let contents: FileContents
    do throws(Errno) {
      contents = try FileContents(path: path, byteCountMax: limits.fileBytesMax)
    } catch {
      throw AccessError("\(path): \(error)")
    }
    guard contents.status.isRegular else { throw AccessError("\(path): not a regular file") }
    return contents
  }

  /// nil for an empty line or a comment.
  private static func entry(_ bytes: ArraySlice<UInt8>) throws(AccessError) -> TokenFileEntry? {
    guard bytes.count <= lineBytesMax else {
      throw AccessError("longer than \(lineBytesMax) bytes")
    }
    var bytes = bytes
    if bytes.last == 0x0d { bytes.removeLast() }
    guard bytes.allSatisfy({ $0 >= 0x20 && $0 != 0x7f || $0 == 0x09 }) else {
      throw AccessError("a control character")
    }
    guard let line = String(validating: bytes, as: UTF8.self) else {
      throw AccessError("not UTF-8")
    }
    var rest = line[...]
    guard let kind = nextWord(&rest), !kind.hasPrefix("#") else { return nil }
    guard let what = nextWord(&rest) else {
      throw AccessError("nothing behind the first word: sha256:HEX or KIND:NAME")
    }
    let subject = try subject(kind, what)
    var attributes = Attributes()
    while let word = nextWord(&rest, attributes: true) { try attributes.add(word) }
    guard let role = attributes.role else {
      throw AccessError("no role= (read, reserve, stock or admin)")
    }
    var entry = TokenFileEntry(subject: subject, caller: attributes.caller ?? "", role: role)
    entry.ownHoldsOnly = attributes.ownHoldsOnly
    entry.expires = attributes.expires
    entry.note = attributes.note
    if entry.ownHoldsOnly && entry.caller.isEmpty {
      throw AccessError("own-holds-only without a caller's name: everybody may be nameless")
    }
    return entry
  }

  /// Takes the next word off the line; `note=` and all behind it is one.
  private static func nextWord(_ rest: inout Substring, attributes: Bool = false) -> Substring? {
    rest = rest.drop { $0 == " " || $0 == "\t" }
    if rest.isEmpty { return nil }
    let isNote = attributes && rest.hasPrefix("note=")
    let word = isNote ? rest : rest.prefix { $0 != " " && $0 != "\t" }
    rest = rest[word.endIndex...]
    return word
  }

  private static func subject(
    _ kind: Substring, _ what: Substring
  ) throws(AccessError) -> TokenFileEntry.Subject {
    switch kind {
    case "token":
      guard what.hasPrefix("sha256:"), let digest = Digest(hexadecimal: what.dropFirst(7)) else {
        throw AccessError(
          "not sha256: and the 64 hexadecimal digits of a token's hash; if it is the token itself, "
            + "take it away and make another: holdfast token create")
      }
      return .token(digest)
    case "cert":
      guard let name = decoded(what), let kind = kinds.first(where: { name.hasPrefix($0) }),
        name.utf8.count > kind.utf8.count
      else { throw AccessError("not uri:, dns: or cn: and a name") }
      return .certificate(name)
    default: throw AccessError("an entry begins with token or cert")
    }
  }

  /// What stands behind an entry's subject.
  private struct Attributes {
    var caller: String?
    var role: Role?
    var ownHoldsOnly = false
    var expires: AccessTime?
    var note: String?

    mutating func add(_ word: Substring) throws(AccessError) {
      let name = word.prefix { $0 != "=" }
      let value = word.dropFirst(name.count + 1)
      switch name {
      case "caller" where word.count > name.count:
        guard caller == nil else { throw AccessError("caller= twice") }
        guard CallerName.isValid(Array(value.utf8).span) else {
          throw AccessError("caller= has up to 64 bytes of printable ASCII")
        }
        caller = String(value)
      case "role" where word.count > name.count:
        guard role == nil else { throw AccessError("role= twice") }
        role = Role(name: value)
        if role == nil { throw AccessError("role= is read, reserve, stock or admin") }
      case "own-holds-only" where word.count == name.count:
        guard !ownHoldsOnly else { throw AccessError("own-holds-only twice") }
        ownHoldsOnly = true
      case "expires" where word.count > name.count:
        guard expires == nil else { throw AccessError("expires= twice") }
        expires = AccessTime(value)
        if expires == nil {
          throw AccessError("expires= is a time such as 2027-01-31T12:00:00Z, or a day, in UTC")
        }
      case "note" where word.count > name.count: note = String(value)
      default:
        throw AccessError(
          "a word that is none of caller=, role=, own-holds-only, expires= and note=")
      }
    }
  }

  // MARK: Certificates' names

  /// With % for what would end the word.
  static func encoded(_ name: String) -> String {
    var text = ""
    for byte in name.utf8 {
      if 0x21...0x7e ~= byte && byte != UInt8(ascii: "%") {
        text.unicodeScalars.append(Unicode.Scalar(byte))
      } else {
        text += "%" + (byte < 16 ? "0" : "") + String(byte, radix: 16)
      }
    }
    return text
  }

  /// nil where a % is not followed by two digits, or what comes out is not UTF-8, or has a NUL.
  private static func decoded(_ text: Substring) -> String? {
    var bytes: [UInt8] = []
    var rest = Array(text.utf8)[...]
    while let byte = rest.popFirst() {
      if byte != UInt8(ascii: "%") {
        bytes.append(byte)
        continue
      }
      guard rest.count >= 2,
        let digits = String(validating: rest.prefix(2), as: UTF8.self),
        digits.utf8.allSatisfy({ $0 != UInt8(ascii: "+") && $0 != UInt8(ascii: "-") }),
        let value = UInt8(digits, radix: 16), value != 0
      else { return nil }
      bytes.append(value)
      rest = rest.dropFirst(2)
    }
    return String(validating: bytes, as: UTF8.self)
  }
}
