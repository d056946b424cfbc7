import Posix
import WireTesting

@testable import LoadKit

/// The fake server's stock and reservations, and how it answers calls.
struct FakeStore {
  struct Item {
    var onHand: Int64
    var held: Int64 = 0
    var committed: Int64 = 0
    var safetyStock: Int64 = 0
    var version: UInt64 = 1
  }

  typealias Line = (sku: String, units: Int64)

  /// What a Reserve would have, each item once.
  private struct Asked {
    var lines: [Line] = []
    /// The fewest that will do, by item.
    var least: [String: Int64] = [:]
    /// A line is content with less.
    var isPartial = false

    init(_ fields: [Fields]) {
      lines = FakeStore.merged(fields.map { ($0.text(1), Int64($0.number(3))) })
      for line in fields {
        let least = Int64(line.has(4) ? line.number(4) : line.number(3))
        self.least[line.text(1), default: 0] += least
        isPartial = isPartial || line.has(4)
      }
    }
  }

  private struct Reservation {
    enum State { case held, confirmed, released, expired }
    var lines: [(sku: String, units: Int64)]
    var expires: Int64
    var state = State.held
    var revision: UInt64 = 1
    var limit: Limit?
  }

  /// At most so many units of each item for a subject.
  private struct Limit {
    let subject: String
    let maxUnits: Int64
  }

  /// Why a call is refused.
  struct Refused {
    var reason = "INSUFFICIENT_STOCK"
    let sku: String
    /// Units that the subject has.
    var used: Int64?
    var isReplayed = false
  }

  private enum Known {
    case accepted(id: String, expires: Int64, alternative: UInt64, granted: [Line])
    case refused(Refused)
  }

  /// What it tells of its decisions.
  private(set) var feed: FakeFeed

  private let fault: FakeServer.Fault
  private(set) var items: [String: Item] = [:]
  private var reservations: [String: Reservation] = [:]
  private var byKey: [String: Known] = [:]
  /// Of Replaces: why they were refused, or nil.
  private var replacesByKey: [String: Refused?] = [:]
  /// Units that a subject holds and has bought, by item.
  private var used: [String: [String: Int64]] = [:]
  private var adjustments: Set<String> = []
  private var reserves = 0
  private var batchReads = 0
  private var refusedCounts: Set<String> = []
  /// No hold is due before.
  private var nextExpiry = Int64.max

  init(_ fault: FakeServer.Fault, feed: FakeFeed.Fault = .none) {
    self.fault = fault
    self.feed = FakeFeed(feed)
  }

  /// The frames of the answer.
  mutating func answer(_ path: String, _ message: [UInt8], _ stream: UInt32) -> [UInt8] {
    expire()
    let fields = Fields(message)
    switch path.split(separator: "/").last {
    case "Reserve": return reserve(message, stream, stock: items)
    case "AdjustStock": return adjust(fields, stream)
    case "GetStock":
      let sku = fields.text(1)
      guard let level = level(sku, excess: 0) else { return refusal(stream, 5, "ITEM_NOT_FOUND") }
      return Frames.answer(stream, level)
    case "BatchGetStock":
      batchReads += 1
      var excess: Int64 = 0
      if case .misstatesOnce = fault, batchReads == 1 { excess = 7 }
      let levels = fields.nested(1).compactMap { level($0.text(1), excess: excess) }
      return Frames.answer(stream, levels.flatMap { $0 })
    case "Extend": return extend(fields, stream)
    case "Replace": return replace(fields, stream)
    default: return end(path, fields.text(1), keeps: fields.number(4) == 1, stream)
    }
  }

  private func level(_ sku: String, excess: Int64) -> [UInt8]? {
    items[sku].map { item in
      Fields.bytes(
        1,
        Fields.bytes(1, Array(sku.utf8)) + Fields.varint(3, UInt64(item.onHand + excess))
          + Fields.varint(4, UInt64(bitPattern: item.held))
          + Fields.varint(8, UInt64(bitPattern: item.committed)))
    }
  }

  private mutating func adjust(_ fields: Fields, _ stream: UInt32) -> [UInt8] {
    let sku = fields.text(2)
    let isDelta = fields.number(4) > 0
    if case .losesEverything = fault, !isDelta, adjustments.contains(fields.text(1)) {
      self = FakeStore(fault)
    }
    if refusedCounts.contains(fields.text(1)) {
      return refusal(stream, 9, "INSUFFICIENT_STOCK", sku: sku, isReplayed: true)
    }
    if fields.has(12), !adjustments.contains(fields.text(1)),
      let refused = refusalOfCount(fields, sku, stream)
    {
      return refused
    }
    let isNew = adjustments.insert(fields.text(1)).inserted
    if isNew {
      items[sku] = changed(items[sku] ?? Item(onHand: 0, version: 0), fields)
      items[sku]?.version += 1
    }
    if isNew, let item = items[sku] {
      feed.tell(7, key: fields.text(1), stock: [(sku, item)])
    }
    return Frames.answer(stream, isNew ? [] : Fields.varint(2, 1))
  }

  private mutating func refusalOfCount(
    _ fields: Fields, _ sku: String, _ stream: UInt32
  ) -> [UInt8]? {
    let item = items[sku] ?? Item(onHand: 0)
    var isExpected = item.onHand == Int64(fields.number(12))
    if case .refusesCounts = fault { isExpected = false }
    if !isExpected { return refusal(stream, 10, "ON_HAND_MISMATCH", sku: sku) }
    guard Int64(fields.number(5)) < item.held + item.committed else { return nil }
    refusedCounts.insert(fields.text(1))
    feed.tell(8, key: fields.text(1), reason: "INSUFFICIENT_STOCK")
    return refusal(stream, 9, "INSUFFICIENT_STOCK", sku: sku)
  }

  private func changed(_ item: Item, _ fields: Fields) -> Item {
    var item = item
    if fields.has(8) { item.safetyStock = Int64(bitPattern: fields.number(8)) }
    if fields.has(4) { item.onHand += Int64(fields.number(4)) }
    if fields.has(5) { item.onHand = Int64(fields.number(5)) }
    if fields.has(10) {
      item.committed -= Int64(fields.number(10))
      if case .keepsShipped = fault { return item }
      item.onHand -= Int64(fields.number(10))
    }
    if fields.has(11) {
      if case .losesUncommitted = fault { return item }
      item.committed -= Int64(fields.number(11))
    }
    return item
  }

  /// What may be held of an item.
  private func available(_ item: Item) -> Int64 {
    var (committed, overcommit) = (item.committed, -item.safetyStock)
    if case .resellsCommitted = fault { committed = 0 }
    if case .exceedsOvercommit = fault { overcommit *= 2 }
    return item.onHand - item.held - committed + overcommit
  }

  // MARK: Reservations

  /// What became of a Reserve: the message of an OK, or a refusal.
  private enum Decided {
    case held([UInt8])
    case refused(Refused)
  }

  /// Checks against `stock`, takes from the store. The frames of the answer.
  mutating func reserve(_ message: [UInt8], _ stream: UInt32, stock: [String: Item]) -> [UInt8] {
    switch decide(message, stock: stock) {
    case .held(let response): Frames.answer(stream, response)
    case .refused(let refused): refusal(stream, refused)
    }
  }

  /// The ReserveResults of a message of many, each decided as if it had come alone.
  mutating func reserveMany(_ message: [UInt8]) -> [[UInt8]] {
    expire()
    return Fields(message).bytes(1).map { request in
      switch decide(request, stock: items) {
      case .held(let response): return Fields.bytes(1, response)
      case .refused(let refused):
        return Fields.bytes(
          2,
          Fields.varint(1, 9) + Fields.bytes(2, Array(refused.reason.utf8))
            + Self.entries(refused, field: 4))
      }
    }
  }

  private mutating func decide(_ message: [UInt8], stock: [String: Item]) -> Decided {
    let fields = Fields(message)
    let key = fields.text(1)
    var isForgetful = false
    if case .forgetsKeys = fault { isForgetful = true }
    if let known = byKey[key], !isForgetful {
      switch known {
      case .accepted(let id, let expires, var alternative, let granted):
        var later: Int64 = 0
        if case .changesReplays = fault { later = 1_000_000_000 }
        if case .changesAlternatives = fault { alternative = 1 - min(1, alternative) }
        return .held(
          acceptance(id, expires + later, alternative, granted, isReplayed: true))
      case .refused(var refused):
        refused.isReplayed = true
        return .refused(refused)
      }
    }
    var asked = [Asked(fields.nested(2))] + fields.nested(5).map { Asked($0.nested(1)) }
    if case .triesLinesAlone = fault { asked.removeLast(asked.count - 1) }
    reserves += 1
    let limit = fields.nested(6).first.map {
      Limit(subject: $0.text(1), maxUnits: Int64($0.number(2)))
    }
    let refusals = asked.map { refusal(of: $0, limit, stock: stock) }
    var chosen = refusals.firstIndex { $0 == nil }
    if case .prefersTheLast = fault { chosen = refusals.lastIndex { $0 == nil } }
    guard let chosen else {
      let refused = refusals.first.flatMap { $0 } ?? Refused(sku: "")
      byKey[key] = .refused(refused)
      feed.tell(8, key: key, lines: asked[0].lines, reason: refused.reason)
      return .refused(refused)
    }
    let lines = granted(asked[chosen], stock: stock)
    change(lines) { $0.held += $1 }
    use(lines, of: limit)
    let id = "00000000000000\(100_000 + reservations.count)"
    let expires = SystemClock.monotonicNanoseconds() + FakeStore.duration(fields.nested(3).first)
    reservations[id] = Reservation(lines: lines, expires: expires, limit: limit)
    nextExpiry = min(nextExpiry, expires)
    feed.tell(
      1, id: id, key: key, lines: lines, stock: self.stock(lines), expires: Self.timestamp(expires))
    var alternative = UInt64(chosen)
    if case .misnamesAlternatives = fault { alternative = 0 }
    var told = asked[chosen].isPartial ? lines : []
    if case .overstatesGrants = fault { told = told.map { ($0.sku, $0.units + 1) } }
    byKey[key] = .accepted(
      id: id, expires: expires, alternative: alternative, granted: told)
    return .held(acceptance(id, expires, alternative, told, isReplayed: false))
  }

  /// Why what is asked for cannot be held; nil where it can.
  private func refusal(of asked: Asked, _ limit: Limit?, stock: [String: Item]) -> Refused? {
    var refused = asked.lines.first { line in
      guard let item = stock[line.sku] else { return true }
      return available(item) < asked.least[line.sku] ?? 0
    }.map { Refused(sku: $0.sku) }
    if case .refusesWithStock = fault, reserves % 7 == 0 {
      refused = asked.lines.first.map { Refused(sku: $0.sku) }
    }
    let passed = refusal(by: limit, of: asked.lines)
    if case .limitsBeforeStock = fault { return passed ?? refused }
    return refused ?? passed
  }

  /// What is held of what can be held: of each item as much as there is, up to all.
  private func granted(_ asked: Asked, stock: [String: Item]) -> [Line] {
    if case .grantsWhatIsNotThere = fault { return asked.lines }
    guard asked.isPartial else { return asked.lines }
    return asked.lines.map { line in
      let least = asked.least[line.sku] ?? line.units
      if case .grantsTheLeast = fault { return (line.sku, least) }
      return (line.sku, min(line.units, stock[line.sku].map(available) ?? 0))
    }
  }

  // MARK: Limits

  /// LIMIT_EXCEEDED, where a subject would have too much of an item.
  private func refusal(by limit: Limit?, of lines: [(sku: String, units: Int64)]) -> Refused? {
    guard let limit else { return nil }
    if case .ignoresLimits = fault { return nil }
    return lines.compactMap { line in
      let used = used[limit.subject]?[line.sku] ?? 0
      return line.units > 0 && used + line.units > limit.maxUnits
        ? Refused(reason: "LIMIT_EXCEEDED", sku: line.sku, used: used) : nil
    }.first
  }

  /// - Parameter sign: -1 gives back.
  private mutating func use(
    _ lines: [(sku: String, units: Int64)], of limit: Limit?, sign: Int64 = 1
  ) {
    guard let limit else { return }
    for line in lines {
      used[limit.subject, default: [:]][line.sku, default: 0] += sign * line.units
    }
  }

  private mutating func change(
    _ lines: [(sku: String, units: Int64)], _ body: (inout Item, Int64) -> Void
  ) {
    for line in lines {
      guard var item = items[line.sku] else { continue }
      body(&item, line.units)
      item.version += 1
      items[line.sku] = item
    }
  }

  private func stock(_ lines: [(sku: String, units: Int64)]) -> [(sku: String, item: Item)] {
    lines.compactMap { line in items[line.sku].map { (line.sku, $0) } }
  }

  private static func merged(
    _ lines: [(sku: String, units: Int64)]
  ) -> [(sku: String, units: Int64)] {
    var wanted: [String: Int64] = [:]
    for line in lines { wanted[line.sku, default: 0] += line.units }
    return wanted.sorted { $0.key < $1.key }.map { (sku: $0.key, units: $0.value) }
  }

  private mutating func extend(_ fields: Fields, _ stream: UInt32) -> [UInt8] {
    let id = fields.text(1)
    guard let reservation = reservations[id] else {
      return refusal(stream, 5, "RESERVATION_NOT_FOUND")
    }
    if let refused = refusalOfEnded(reservation, stream) { return refused }
    let expires = SystemClock.monotonicNanoseconds() + FakeStore.duration(fields.nested(2).first)
    reservations[id]?.expires = expires
    reservations[id]?.revision += 1
    nextExpiry = min(nextExpiry, expires)
    feed.tell(3, id: id, expires: Self.timestamp(expires))
    return Frames.answer(
      stream,
      Fields.bytes(
        1, Fields.bytes(1, Array(id.utf8)) + Fields.bytes(5, FakeStore.timestamp(expires))))
  }

  // MARK: Other lines

  private mutating func replace(_ fields: Fields, _ stream: UInt32) -> [UInt8] {
    let key = fields.text(1)
    let id = fields.text(2)
    var isForgetful = false
    if case .replacesTwice = fault { isForgetful = true }
    if let known = replacesByKey[key], !isForgetful {
      guard var refused = known else { return Frames.answer(stream, Fields.varint(2, 1)) }
      refused.isReplayed = true
      return refusal(stream, refused)
    }
    guard let reservation = reservations[id] else {
      return refusal(stream, 5, "RESERVATION_NOT_FOUND")
    }
    if let refused = refusalOfEnded(reservation, stream) { return refused }
    let expected = fields.number(4)
    if expected > 0, expected != reservation.revision, !isForgetful {
      return refusal(stream, 10, "REVISION_MISMATCH")
    }
    let asked = fields.nested(3).map { (sku: $0.text(1), units: Int64($0.number(3))) }
    let new = Self.merged(asked)
    let old = Dictionary(
      uniqueKeysWithValues: Self.merged(reservation.lines).map { ($0.sku, $0.units) })
    let short = new.first { line in
      var added = line.units - (old[line.sku] ?? 0)
      if case .replacesFromScratch = fault { added = line.units }
      guard added > 0, let item = items[line.sku] else { return false }
      if case .replacesWithoutStock = fault { return false }
      return available(item) < added
    }?.sku
    let added = new.map { (sku: $0.sku, units: $0.units - (old[$0.sku] ?? 0)) }
    let refused = short.map { Refused(sku: $0) } ?? refusal(by: reservation.limit, of: added)
    replacesByKey[key] = .some(refused)
    if let refused {
      feed.tell(8, key: key, lines: new, reason: refused.reason)
      return refusal(stream, refused)
    }
    if case .replacesNothing = fault { return Frames.answer(stream, []) }
    use(Self.merged(reservation.lines), of: reservation.limit, sign: -1)
    use(new, of: reservation.limit)
    // What it keeps sees nothing of it.
    let dropped = old.filter { old in !new.contains { $0.sku == old.key } }
    let changed = (added + dropped.map { (sku: $0.key, units: -$0.value) }).filter {
      $0.units != 0
    }
    change(changed) { $0.held += $1 }
    reservations[id]?.lines = new
    reservations[id]?.revision += 1
    feed.tell(
      2, id: id, key: key, lines: new, stock: self.stock(changed),
      expires: Self.timestamp(reservation.expires))
    return Frames.answer(stream, [])
  }

  private mutating func end(
    _ path: String, _ id: String, keeps: Bool, _ stream: UInt32
  ) -> [UInt8] {
    guard let reservation = reservations[id] else {
      return refusal(stream, 5, "RESERVATION_NOT_FOUND")
    }
    let wanted: Reservation.State = path.hasSuffix("/Release") ? .released : .confirmed
    if reservation.state == wanted { return Frames.answer(stream, Fields.varint(2, 1)) }
    if let refused = refusalOfEnded(reservation, stream) { return refused }
    let lines = Self.merged(reservation.lines)
    var takesUnits = wanted == .confirmed
    if case .losesConfirms = fault { takesUnits = false }
    change(lines) { item, units in
      item.held -= units
      if takesUnits, keeps { item.committed += units }
      if takesUnits, !keeps { item.onHand -= units }
    }
    var givesBack = wanted == .released
    if case .limitsHoldsAlone = fault { givesBack = true }
    if case .keepsReleasedLimits = fault { givesBack = false }
    if givesBack { use(lines, of: reservation.limit, sign: -1) }
    reservations[id]?.state = wanted
    feed.tell(wanted == .released ? 5 : 4, id: id, lines: lines, stock: stock(lines))
    return Frames.answer(stream, [])
  }

  private func refusalOfEnded(_ reservation: Reservation, _ stream: UInt32) -> [UInt8]? {
    switch reservation.state {
    case .held: nil
    case .confirmed: refusal(stream, 9, "RESERVATION_CONFIRMED")
    case .released: refusal(stream, 9, "RESERVATION_RELEASED")
    case .expired: refusal(stream, 9, "RESERVATION_EXPIRED")
    }
  }

  /// Ends the holds that are due.
  private mutating func expire() {
    let now = SystemClock.monotonicNanoseconds()
    guard now >= nextExpiry else { return }
    nextExpiry = .max
    for (id, reservation) in reservations where reservation.state == .held {
      guard reservation.expires <= now else {
        nextExpiry = min(nextExpiry, reservation.expires)
        continue
      }
      reservations[id]?.state = .expired
      let lines = Self.merged(reservation.lines)
      change(lines) { $0.held -= $1 }
      use(lines, of: reservation.limit, sign: -1)
      feed.tell(
        6, id: id, lines: lines, stock: stock(lines), expires: Self.timestamp(reservation.expires))
    }
  }

  // MARK: Messages

  private static func duration(_ fields: Fields?) -> Int64 {
    Int64(fields?.number(1) ?? 0) * 1_000_000_000 + Int64(fields?.number(2) ?? 0)
  }

  /// What the clock on the wall is ahead of the monotonic one, which the store lives by.
  private static let wallAhead =
    SystemClock().now().nanoseconds - SystemClock.monotonicNanoseconds()

  /// - Parameter monotonic: by the monotonic clock; it is stated by the clock on the wall.
  static func timestamp(_ monotonic: Int64) -> [UInt8] {
    let time = monotonic + wallAhead
    return Fields.varint(1, UInt64(time / 1_000_000_000))
      + Fields.varint(2, UInt64(time % 1_000_000_000))
  }

  private func acceptance(
    _ id: String, _ expires: Int64, _ alternative: UInt64, _ granted: [Line], isReplayed: Bool
  ) -> [UInt8] {
    Fields.bytes(1, Array(id.utf8)) + Fields.bytes(2, FakeStore.timestamp(expires))
      + (isReplayed ? Fields.varint(3, 1) : []) + Fields.varint(4, alternative)
      + granted.flatMap { line in
        Fields.bytes(
          5, Fields.bytes(1, Array(line.sku.utf8)) + Fields.varint(3, UInt64(line.units)))
      }
  }

  /// The metadata of a refusal, a map in `field`.
  private static func entries(_ refused: Refused, field: UInt64) -> [UInt8] {
    [
      ("sku", refused.sku.isEmpty ? nil : refused.sku), ("used", refused.used.map { "\($0)" }),
      ("replayed", refused.isReplayed ? "true" : nil),
    ].flatMap { key, value in
      guard let value else { return [UInt8]() }
      return Fields.bytes(
        field, Fields.bytes(1, Array(key.utf8)) + Fields.bytes(2, Array(value.utf8)))
    }
  }

  private func refusal(_ stream: UInt32, _ refused: Refused) -> [UInt8] {
    refusal(stream, 9, refused.reason, refused)
  }

  private func refusal(
    _ stream: UInt32, _ code: Int, _ reason: String, sku: String? = nil, isReplayed: Bool = false
  ) -> [UInt8] {
    refusal(
      stream, code, reason, Refused(reason: reason, sku: sku ?? "", isReplayed: isReplayed))
  }

  private func refusal(
    _ stream: UInt32, _ code: Int, _ reason: String, _ refused: Refused
  ) -> [UInt8] {
    var info = Fields.bytes(1, Array(reason.utf8)) + Fields.bytes(2, Array("holdfast".utf8))
    info += Self.entries(refused, field: 3)
    let any =
      Fields.bytes(1, Array("type.googleapis.com/google.rpc.ErrorInfo".utf8))
      + Fields.bytes(2, info)
    let status = Fields.varint(1, UInt64(code)) + Fields.bytes(3, any)
    var block = Frames.status200 + Frames.literal("grpc-status", "\(code)")
    let text = base64(status)
    // A value of 127 bytes or more has its length in a second byte.
    let name = Array("grpc-status-details-bin".utf8)
    block += [0, UInt8(name.count)] + name
    block += text.count < 127 ? [UInt8(text.count)] : [0x7f] + varintBytes(UInt64(text.count - 127))
    block += text
    return Frames.frame(1, 5, stream, block)
  }
}

func base64(_ bytes: [UInt8]) -> [UInt8] {
  let alphabet = Array("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/".utf8)
  var text: [UInt8] = []
  var bits = 0
  var count = 0
  for byte in bytes {
    bits = bits << 8 | Int(byte)
    count += 8
    while count >= 6 {
      count -= 6
      text.append(alphabet[bits >> count & 63])
    }
    bits &= 0xfff
  }
  if count > 0 { text.append(alphabet[bits << (6 - count) & 63]) }
  return text
}

func varintBytes(_ value: UInt64) -> [UInt8] {
  value < 128 ? [UInt8(value)] : [UInt8(value & 127) | 128] + varintBytes(value >> 7)
}

/// A protobuf message, the slow and plain way.
struct Fields {
  private var fields: [(number: UInt64, value: UInt64, bytes: [UInt8])] = []

  init(_ message: [UInt8]) {
    var at = 0
    func varint() -> UInt64 {
      var value: UInt64 = 0
      var shift: UInt64 = 0
      while at < message.count {
        value |= UInt64(message[at] & 127) << shift
        shift += 7
        at += 1
        if message[at - 1] < 128 { break }
      }
      return value
    }
    while at < message.count {
      let tag = varint()
      if tag & 7 == 0 {
        fields.append((tag >> 3, varint(), []))
      } else {
        let length = Int(varint())
        fields.append((tag >> 3, 0, Array(message[at..<at + length])))
        at += length
      }
    }
  }

  func has(_ field: UInt64) -> Bool { fields.contains { $0.number == field } }
  func number(_ field: UInt64) -> UInt64 { fields.last { $0.number == field }?.value ?? 0 }
  func text(_ field: UInt64) -> String {
    String(decoding: fields.last { $0.number == field }?.bytes ?? [], as: UTF8.self)
  }
  func bytes(_ field: UInt64) -> [[UInt8]] {
    fields.filter { $0.number == field }.map(\.bytes)
  }
  func nested(_ field: UInt64) -> [Fields] { bytes(field).map { Fields($0) } }

  static func varint(_ field: UInt64, _ value: UInt64) -> [UInt8] {
    varintBytes(field << 3) + varintBytes(value)
  }
  static func bytes(_ field: UInt64, _ bytes: [UInt8]) -> [UInt8] {
    varintBytes(field << 3 | 2) + varintBytes(UInt64(bytes.count)) + bytes
  }
}
