// Who a verified certificate says that its owner is.
internal import COpenSSL

/// A peer's name, of its certificate: the first URI of its subjectAltName (as SPIFFE has it), else the
/// first DNS name there, else the subject's last common name. A name counts where it has 1 to 64 bytes of
/// visible ASCII and blanks between them; of others the certificate has none: a name that is cut short, or
/// read up to a zero byte, may be somebody else's.
package struct PeerSubject: BitwiseCopyable, Sendable {
  /// Longest name in bytes, as of a principal; its kind comes on top of that.
  package static let bytesMax = 64

  private var storage = InlineArray<68, UInt8>(repeating: 0)
  private var count = 0

  /// Calls `body` with `uri:`, `dns:` or `cn:` and the name: a name of one kind is none of another.
  package func withName<Result>(_ body: (Span<UInt8>) -> Result) -> Result {
    body(storage.span.extracting(0..<count))
  }

  /// For logs and tests.
  package var text: String {
    withName { name in
      var bytes: [UInt8] = []
      for index in name.indices { bytes.append(name[index]) }
      return String(decoding: bytes, as: UTF8.self)
    }
  }

  /// - Safety: `certificate` must be an X509.
  @unsafe init?(certificate: OpaquePointer) {
    // X509_get_ext_d2i: GENERAL_NAMES of ours, or null where there are none or more than one such
    // extension, or it can't be read.
    let raw = unsafe X509_get_ext_d2i(certificate, NID_subject_alt_name, nil, nil)
    defer { TLSError.forgetAll() }
    if let raw = unsafe raw {
      let names = OpaquePointer(raw)
      defer { unsafe GENERAL_NAMES_free(names) }
      let types: [(type: Int32, kind: StaticString)] = [(GEN_URI, "uri:"), (GEN_DNS, "dns:")]
      for (type, kind) in types {
        let count = unsafe hf_general_names_count(names)
        for index in 0..<count {
          guard let text = unsafe hf_general_name_text(names, index, type) else { continue }
          // The first of its type decides: it is not skipped for one that is easier to read.
          guard unsafe take(text, kind) else { return nil }
          return
        }
      }
    }
    let subject = unsafe X509_get_subject_name(certificate)
    var last: Int32 = -1
    while true {
      // X509_NAME_get_index_by_NID: the next place, -1 where there is no further one.
      let next = unsafe X509_NAME_get_index_by_NID(subject, NID_commonName, last)
      if next < 0 { break }
      last = next
    }
    guard last >= 0,
      let text = unsafe X509_NAME_ENTRY_get_data(X509_NAME_get_entry(subject, last)),
      unsafe take(text, "cn:")
    else { return nil }
  }

  /// - Safety: `text` must be an ASN1_STRING.
  @unsafe private mutating func take(
    _ text: UnsafePointer<ASN1_STRING>, _ kind: StaticString
  ) -> Bool {
    let length = Int(unsafe ASN1_STRING_length(text))
    guard (1...Self.bytesMax).contains(length), let data = unsafe ASN1_STRING_get0_data(text) else {
      return false
    }
    let prefix = kind.utf8CodeUnitCount
    for index in 0..<prefix { storage[index] = unsafe kind.utf8Start[index] }
    for index in 0..<length {
      let byte = unsafe data[index]
      let isBlankBetween = byte == 0x20 && index > 0 && index < length - 1
      guard (0x21...0x7e).contains(byte) || isBlankBetween else { return false }
      storage[prefix + index] = byte
    }
    count = prefix + length
    return true
  }
}
