import HTTP2
import Posix
import Synchronization

@testable import LoadHistory
@testable import LoadKit

/// A gRPC server in the test's own process, with a store that can be told to be wrong. It asks for a
/// header table of size 0, so that every request names its path in plain text.
final class FakeServer: Sendable {
  enum Fault: Sendable {
    case none
    /// Checks `batch` reserves against the stock, then takes the units of all: check, then
    /// decrement, unlocked, at its worst.
    case checksThenDecrements(batch: Int)
    /// Makes a new reservation for a key that it knows.
    case forgetsKeys
    /// Confirms, but leaves the units on hand.
    case losesConfirms
    /// Refuses every seventh reserve.
    case refusesWithStock
    /// After so many calls cuts the connections that call, one for each of the next `times` calls.
    case hangsUp(after: Int, times: Int = .max)
    /// Once the stock is set a second time it has never heard of anything.
    case losesEverything
  }

  private struct Item {
    var onHand: Int64
    var held: Int64 = 0
  }

  private struct Reservation {
    var lines: [(sku: String, units: Int64)]
    var expires: Int64
    var isEnded = false
  }

  private enum Known {
    case accepted(id: String)
    case refused(sku: String)
  }

  private struct Store {
    var items: [String: Item] = [:]
    var reservations: [String: Reservation] = [:]
    var byKey: [String: Known] = [:]
    var adjustments: Set<String> = []
    var calls = 0
    var reserves = 0
  }

  let port: UInt16
  private let listener: Int32
  private let fault: Fault
  private let isStopping = Atomic<Bool>(false)
  private let thread = Mutex<Posix.Thread?>(nil)

  init(_ fault: Fault) throws {
    self.fault = fault
    let socket = try Socket.listen(host: "127.0.0.1", port: 0)
    port = try Socket.localPort(socket.number)
    listener = socket.take()
    let made = try Posix.Thread(name: "fake") { [self] in serve() }
    thread.withLock { $0 = made }
  }

  /// Stops serving and waits for its thread.
  func stop() {
    isStopping.store(true, ordering: .releasing)
    thread.withLock { $0.take() }?.join()
    FileDescriptor.close(number: listener)
  }

  // MARK: Bytes

  private final class Peer {
    let socket: Int32
    var input: [UInt8] = []
    var output: [UInt8] = []
    var paths: [UInt32: String] = [:]
    var greeted = false
    init(_ socket: Int32) { self.socket = socket }
    deinit { FileDescriptor.close(number: socket) }
  }

  private func serve() {
    guard let poller = try? Poller() else { return }
    try? poller.add(listener, token: 0)
    var peers: [UInt64: Peer] = [:]
    var next: UInt64 = 1
    var store = Store()
    var waiting: [(peer: Peer, stream: UInt32, message: [UInt8])] = []
    while !isStopping.load(ordering: .acquiring) {
      let count = (try? poller.wait(timeoutMilliseconds: 20)) ?? 0
      for position in 0..<count {
        let token = poller.event(at: position).token
        if token == 0 {
          guard case .connection(let socket) = Socket.accept(listener) else { continue }
          peers[next] = Peer(socket)
          try? poller.add(socket, token: next)
          next += 1
        } else if let peer = peers[token] {
          let isOpen = receive(peer, &store, &waiting)
          for each in peers.values { flush(each) }
          if !isOpen { peers[token] = nil }
        }
      }
    }
  }

  private func flush(_ peer: Peer) {
    while !peer.output.isEmpty {
      let result = unsafe peer.output.withUnsafeBytes {
        unsafe FileDescriptor.send(peer.socket, from: $0)
      }
      guard case .moved(let count) = result else {
        if result == .wouldBlock { continue }
        return
      }
      peer.output.removeFirst(count)
    }
  }

  private func receive(
    _ peer: Peer, _ store: inout Store,
    _ waiting: inout [(peer: Peer, stream: UInt32, message: [UInt8])]
  ) -> Bool {
    var buffer = [UInt8](repeating: 0, count: 65_536)
    let result = unsafe buffer.withUnsafeMutableBytes {
      unsafe FileDescriptor.read(peer.socket, into: $0)
    }
    guard case .moved(let count) = result, count > 0 else { return result == .wouldBlock }
    peer.input += buffer[..<count]
    if !peer.greeted, peer.input.count >= 24 {
      peer.greeted = true
      peer.input.removeFirst(24)
      peer.output += Frames.settings([(1, 0), (3, 1000)])
    }
    var at = 0
    while peer.greeted, peer.input.count - at >= 9 {
      let header = peer.input[at..<at + 9].map { Int($0) }
      let length = header[0] << 16 | header[1] << 8 | header[2]
      guard peer.input.count - at >= 9 + length else { break }
      let stream = UInt32(header[5] << 24 | header[6] << 16 | header[7] << 8 | header[8])
      let payload = Array(peer.input[at + 9..<at + 9 + length])
      at += 9 + length
      if header[3] == 1 {
        let text = String(decoding: payload, as: UTF8.self)
        peer.paths[stream] = Method.paths.first { text.contains($0) }
      } else if header[3] == 0 {
        store.calls += 1
        if case .hangsUp(let after, let times) = fault, store.calls > after,
          store.calls - after <= times
        {
          return false
        }
        take(peer, stream, Array(payload.dropFirst(5)), &store, &waiting)
        peer.output += Frames.frame(8, 0, 0, Frames.number(UInt32(max(1, length))))
      }
    }
    peer.input.removeFirst(at)
    return true
  }

  // MARK: Calls

  private func take(
    _ peer: Peer, _ stream: UInt32, _ message: [UInt8], _ store: inout Store,
    _ waiting: inout [(peer: Peer, stream: UInt32, message: [UInt8])]
  ) {
    let path = peer.paths.removeValue(forKey: stream) ?? ""
    guard path.hasSuffix("/Reserve") else {
      peer.output += answer(path, message, &store, stream)
      return
    }
    guard case .checksThenDecrements(let batch) = fault else {
      peer.output += reserve(message, &store, stream, stock: store.items)
      return
    }
    waiting.append((peer, stream, message))
    guard waiting.count == batch else { return }
    // Each sees the stock as it was before any of them.
    let checked = store.items
    for call in waiting {
      call.peer.output += reserve(call.message, &store, call.stream, stock: checked)
    }
    waiting.removeAll()
  }

  private func answer(
    _ path: String, _ message: [UInt8], _ store: inout Store, _ stream: UInt32
  ) -> [UInt8] {
    let fields = Fields(message)
    switch path.split(separator: "/").last {
    case "AdjustStock":
      if case .losesEverything = fault, store.adjustments.contains(fields.text(1)) {
        store = Store()
      }
      let isNew = store.adjustments.insert(fields.text(1)).inserted
      if isNew { store.items[fields.text(2)] = Item(onHand: Int64(fields.number(5))) }
      return Frames.answer(stream, isNew ? [] : Fields.varint(2, 1))
    case "BatchGetStock":
      var levels: [UInt8] = []
      for item in fields.nested(1) {
        guard let found = store.items[item.text(1)] else { continue }
        levels += Fields.bytes(
          1,
          Fields.bytes(1, Array(item.text(1).utf8)) + Fields.varint(3, UInt64(found.onHand))
            + Fields.varint(4, UInt64(bitPattern: found.held)))
      }
      return Frames.answer(stream, levels)
    default: return end(path, fields.text(1), &store, stream)
    }
  }

  private func end(
    _ path: String, _ id: String, _ store: inout Store, _ stream: UInt32
  ) -> [UInt8] {
    guard let reservation = store.reservations[id] else {
      return refusal(stream, 5, "RESERVATION_NOT_FOUND")
    }
    let isReplayed = reservation.isEnded
    if !isReplayed {
      for line in reservation.lines {
        store.items[line.sku]?.held -= line.units
        if path.hasSuffix("/Release") { continue }
        if case .losesConfirms = fault { continue }
        store.items[line.sku]?.onHand -= line.units
      }
      store.reservations[id]?.isEnded = true
    }
    return Frames.answer(stream, isReplayed ? Fields.varint(2, 1) : [])
  }

  /// Checks against `stock`, takes from the store.
  private func reserve(
    _ message: [UInt8], _ store: inout Store, _ stream: UInt32, stock: [String: Item]
  ) -> [UInt8] {
    let fields = Fields(message)
    let key = fields.text(1)
    var isForgetful = false
    if case .forgetsKeys = fault { isForgetful = true }
    if let known = store.byKey[key], !isForgetful {
      switch known {
      case .accepted(let id): return acceptance(stream, id, store, isReplayed: true)
      case .refused(let sku):
        return refusal(stream, 9, "INSUFFICIENT_STOCK", sku: sku, isReplayed: true)
      }
    }
    let lines = fields.nested(2).map { (sku: $0.text(1), units: Int64($0.number(3))) }
    var wanted: [String: Int64] = [:]
    for line in lines { wanted[line.sku, default: 0] += line.units }
    store.reserves += 1
    var short = lines.first { line in
      guard let item = stock[line.sku] else { return true }
      return item.onHand - item.held < wanted[line.sku] ?? 0
    }?.sku
    if case .refusesWithStock = fault, store.reserves % 7 == 0 { short = lines.first?.sku }
    if let short {
      store.byKey[key] = .refused(sku: short)
      return refusal(stream, 9, "INSUFFICIENT_STOCK", sku: short)
    }
    for line in lines { store.items[line.sku]?.held += line.units }
    let id = "00000000000000\(100_000 + store.reservations.count)"
    let seconds = Int64(fields.nested(3).first?.number(1) ?? 0)
    store.reservations[id] = Reservation(
      lines: lines, expires: SystemClock.monotonicNanoseconds() + seconds * 1_000_000_000)
    store.byKey[key] = .accepted(id: id)
    return acceptance(stream, id, store, isReplayed: false)
  }

  private func acceptance(
    _ stream: UInt32, _ id: String, _ store: Store, isReplayed: Bool
  ) -> [UInt8] {
    let expires = UInt64(store.reservations[id]?.expires ?? 0)
    let timestamp =
      Fields.varint(1, expires / 1_000_000_000) + Fields.varint(2, expires % 1_000_000_000)
    return Frames.answer(
      stream,
      Fields.bytes(1, Array(id.utf8)) + Fields.bytes(2, timestamp)
        + (isReplayed ? Fields.varint(3, 1) : []))
  }

  private func refusal(
    _ stream: UInt32, _ code: Int, _ reason: String, sku: String? = nil, isReplayed: Bool = false
  ) -> [UInt8] {
    var info = Fields.bytes(1, Array(reason.utf8)) + Fields.bytes(2, Array("holdfast".utf8))
    for (key, value) in [("sku", sku), ("replayed", isReplayed ? "true" : nil)] {
      guard let value else { continue }
      info += Fields.bytes(
        3, Fields.bytes(1, Array(key.utf8)) + Fields.bytes(2, Array(value.utf8)))
    }
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

  func number(_ field: UInt64) -> UInt64 { fields.last { $0.number == field }?.value ?? 0 }
  func text(_ field: UInt64) -> String {
    String(decoding: fields.last { $0.number == field }?.bytes ?? [], as: UTF8.self)
  }
  func nested(_ field: UInt64) -> [Fields] {
    fields.filter { $0.number == field }.map { Fields($0.bytes) }
  }

  static func varint(_ field: UInt64, _ value: UInt64) -> [UInt8] {
    varintBytes(field << 3) + varintBytes(value)
  }
  static func bytes(_ field: UInt64, _ bytes: [UInt8]) -> [UInt8] {
    varintBytes(field << 3 | 2) + varintBytes(UInt64(bytes.count)) + bytes
  }
}
