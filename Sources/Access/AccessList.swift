// The callers of a token file as the server looks them up.

/// Who may call: made of a token file once, and never changed. Any number of threads look up in it at
/// the same time; a look-up allocates nothing and counts no references.
@safe package final class AccessList: @unchecked Sendable {
  /// What a look-up came to.
  package enum Finding: Sendable {
    case granted(Grant)
    /// It was good once.
    case expired
    case unknown
  }

  private struct Entry: BitwiseCopyable {
    var digest: Digest
    var grant: Grant
    var expires: Int64
  }

  /// Entry + 1 by the digest, open addressing; 0: none. Tokens and certificates apart, so that no bytes
  /// that a client sends as a token count as a certificate's name.
  @safe private struct Table {
    let slots: UnsafeMutablePointer<UInt32>
    let mask: Int

    init(entryCount: Int) {
      var count = 16
      while count < 2 * entryCount { count *= 2 }
      mask = count - 1
      unsafe slots = .allocate(capacity: count)
      unsafe slots.initialize(repeating: 0, count: count)
    }
  }

  // Written by init alone, freed by deinit: readers share them.
  private let entries: UnsafeMutablePointer<Entry>
  private let tokens: Table
  private let certificates: Table
  private let tokenBytesMax: Int

  /// How many entries.
  package let count: Int
  /// When the expiries come, in nanoseconds since the Unix epoch, each once, the first first.
  package let expiries: [Int64]

  /// - Parameter list: of different subjects, as `TokenFile.parse` gives them.
  package init(_ list: [TokenFileEntry], limits: AccessLimits) {
    count = list.count
    tokenBytesMax = limits.tokenBytesMax
    expiries = Set(list.compactMap { $0.expires?.nanoseconds }).sorted()
    let entries = UnsafeMutablePointer<Entry>.allocate(capacity: max(1, list.count))
    unsafe self.entries = entries
    let tokens = Table(entryCount: list.count)
    let certificates = Table(entryCount: list.count)
    self.tokens = tokens
    self.certificates = certificates
    for (index, entry) in list.enumerated() {
      let digest: Digest
      let table: Table
      switch entry.subject {
      case .token(let hash):
        digest = hash
        table = tokens
      case .certificate(let name):
        digest = Digest(of: Array(name.utf8).span)
        table = certificates
      }
      let grant = Grant(
        caller: Array(entry.caller.utf8).span, role: entry.role, ownHoldsOnly: entry.ownHoldsOnly,
        subject: digest)
      // index < count; the table has room for twice as many.
      unsafe (entries + index).initialize(
        to: Entry(digest: digest, grant: grant, expires: entry.expires?.nanoseconds ?? .max))
      var slot = digest.bucket & table.mask
      while unsafe table.slots[slot] != 0 { slot = (slot + 1) & table.mask }
      unsafe table.slots[slot] = UInt32(truncatingIfNeeded: index + 1)
    }
  }

  deinit {
    unsafe entries.deallocate()
    unsafe tokens.slots.deallocate()
    unsafe certificates.slots.deallocate()
  }

  /// Whose token it is. What the time says depends on the token's length and on its hash, from which
  /// nobody finds a token.
  /// - Parameters:
  ///   - token: as the client sent it, of any length.
  ///   - now: nanoseconds since the Unix epoch.
  package func find(token: Span<UInt8>, now: Int64) -> Finding {
    guard token.count <= tokenBytesMax, token.count > 0 else { return .unknown }
    return find(Digest(of: token), in: tokens, now: now)
  }

  /// Whose token it is, by `Grant.subject` of an earlier look-up.
  package func find(tokenDigest digest: Digest, now: Int64) -> Finding {
    find(digest, in: tokens, now: now)
  }

  /// Whose certificate it is, by `Grant.subject` of an earlier look-up.
  package func find(certificateDigest digest: Digest, now: Int64) -> Finding {
    find(digest, in: certificates, now: now)
  }

  /// Whose certificate it is: `uri:`, `dns:` or `cn:` and a name that the transport has verified.
  package func find(certificate name: Span<UInt8>, now: Int64) -> Finding {
    find(Digest(of: name), in: certificates, now: now)
  }

  private func find(_ digest: Digest, in table: Table, now: Int64) -> Finding {
    var slot = digest.bucket & table.mask
    // Half of the slots at least are empty.
    while true {
      let number = unsafe table.slots[slot]
      if number == 0 { return .unknown }
      let entry = unsafe entries + Int(number - 1)
      if unsafe entry.pointee.digest == digest {
        return unsafe now < entry.pointee.expires ? .granted(entry.pointee.grant) : .expired
      }
      slot = (slot + 1) & table.mask
    }
  }
}
