// The connections of one loop, as plain records at fixed places: no reference counting on the way from
// an epoll event to a connection, and a generation that tells the events of a closed one.
internal import GRPC
internal import HTTP2
internal import Posix

/// One accepted connection.
@safe struct Connection {
  var transport = Transport.none
  /// The socket's number; -1 without one.
  var descriptor: Int32 { transport.descriptor }
  /// Where it comes from, as it was counted.
  var peer = PeerAddress.local
  /// Counts the uses of this place; part of the epoll token.
  var generation: UInt32 = 0
  /// nil until the first bytes come: a connection that says nothing costs almost nothing.
  var http: ServerConnection?
  var openedNanoseconds: Int64 = 0
  /// When the peer last took bytes while there were some to take.
  var progressNanoseconds: Int64 = 0
  /// When the peer last said anything, and when it was last sent a PING.
  var readNanoseconds: Int64 = 0
  var pingedNanoseconds: Int64 = 0
  /// Since when it has no call, and what tells that there were some: whether it had any the last time, and
  /// the last stream then.
  var idleSinceNanoseconds: Int64 = 0
  var isBusy = false
  var lastStream: Int32 = 0
  /// When it is old.
  var endNanoseconds = Int64.max
  /// Another connection has its place: it is no longer counted.
  var isEvicted = false
  /// When its peer was told that it will end, and whether new streams are refused since.
  var drainsSinceNanoseconds: Int64?
  var refusesStreams = false
  /// When it was last read again after a pause.
  var resumedNanoseconds: Int64 = 0
  /// What a write left over.
  var unsent = UnsentBytes()
  /// Listed among the connections to flush at the end of the turn.
  var isTouched = false
  var isReadingPaused = false
  var isWatchedForWriting = false
  /// TLS has to write before it can read on, and the reverse.
  var readsOnceWritable = false
  var writesOnceReadable = false
  /// When TLS last gave the memory back that it keeps for records.
  var releasedNanoseconds: Int64 = 0
  /// The verified name in the peer's certificate. Few have one: it is kept aside. Owned.
  var certificate: UnsafeMutablePointer<CertificateName>?
  /// The header of the PROXY protocol has not come yet. Until then it has no peer.
  var awaitsProxyHeader = false
  /// Say nothing more once its output is out.
  var isEnding = false
  /// When we ended our side; then the peer is read until it ends its own, or the time for that is over.
  /// Closing at once would turn bytes that are still unread into a reset, and a reset takes away what
  /// the peer has not read yet.
  var lingersSinceNanoseconds: Int64?
}

/// Bytes that the socket did not take. Owned; freed when empty.
@safe struct UnsentBytes {
  private var storage: UnsafeMutableRawPointer?
  private var start = 0
  private var end = 0

  var count: Int { end - start }
  var isEmpty: Bool { start == end }

  /// Keeps `bytes`; only when empty.
  mutating func keep(_ bytes: UnsafeRawBufferPointer) {
    guard isEmpty, let base = bytes.baseAddress else { return }
    unsafe storage?.deallocate()
    let copy = UnsafeMutableRawPointer.allocate(byteCount: bytes.count, alignment: 1)
    unsafe copy.copyMemory(from: base, byteCount: bytes.count)
    unsafe storage = copy
    start = 0
    end = bytes.count
  }

  /// Sends what is left.
  mutating func send(over transport: Transport) -> Transfer {
    guard !isEmpty, let storage = unsafe storage else { return .moved(0) }
    let result = unsafe transport.write(
      from: UnsafeRawBufferPointer(start: storage + start, count: end - start))
    if case .moved(let count) = result {
      start += count
      if isEmpty { drop() }
    }
    return result
  }

  mutating func drop() {
    unsafe storage?.deallocate()
    unsafe storage = nil
    start = 0
    end = 0
  }
}

/// The table; a place in it is a connection's name on its loop. A handle: copies are the same table, and
/// the loop destroys it once. All its state is behind constant pointers, so that reaching a connection
/// costs neither reference counting nor exclusivity checks.
@safe struct ConnectionTable {
  private let storage: UnsafeMutablePointer<Connection>
  private let free: UnsafeMutablePointer<Int32>
  private let touched: UnsafeMutablePointer<Int32>
  private let counts: UnsafeMutablePointer<Counts>
  let capacity: Int

  private struct Counts {
    var used = 0
    var open = 0
    var free = 0
    var touched = 0
  }

  init(capacity: Int) {
    self.capacity = capacity
    // Pages are touched only as connections come.
    unsafe storage = .allocate(capacity: capacity)
    unsafe free = .allocate(capacity: capacity)
    // Twice: while the touched ones are worked through, each may be touched again.
    unsafe touched = .allocate(capacity: capacity * 2)
    unsafe counts = .allocate(capacity: 1)
    unsafe counts.initialize(to: Counts())
  }

  /// Gives the memory back; no copy of the handle may be used from here on.
  func destroy() {
    for index in 0..<usedCount {
      unsafe storage[index].unsent.drop()
      unsafe storage[index].certificate?.deallocate()
    }
    unsafe storage.deallocate()
    unsafe free.deallocate()
    unsafe touched.deallocate()
    unsafe counts.deallocate()
  }

  /// Places that were ever used.
  var usedCount: Int { unsafe counts.pointee.used }
  /// Connections that are open.
  var count: Int { unsafe counts.pointee.open }

  subscript(index: Int) -> Connection {
    _read {
      precondition(index >= 0 && index < usedCount, "no such connection")
      yield unsafe storage[index]
    }
    nonmutating _modify {
      precondition(index >= 0 && index < usedCount, "no such connection")
      yield unsafe &storage[index]
    }
  }

  /// A place for a new connection; nil where the table is full.
  func add(transport: Transport, peer: PeerAddress, nowNanoseconds: Int64) -> Int? {
    let index: Int
    if unsafe counts.pointee.free > 0 {
      unsafe counts.pointee.free -= 1
      index = Int(unsafe free[counts.pointee.free])
    } else {
      guard usedCount < capacity else { return nil }
      index = usedCount
      unsafe counts.pointee.used += 1
      unsafe (storage + index).initialize(to: Connection())
    }
    unsafe counts.pointee.open += 1
    unsafe storage[index].transport = transport
    unsafe storage[index].peer = peer
    unsafe storage[index].readNanoseconds = nowNanoseconds
    unsafe storage[index].idleSinceNanoseconds = nowNanoseconds
    unsafe storage[index].openedNanoseconds = nowNanoseconds
    unsafe storage[index].progressNanoseconds = nowNanoseconds
    return index
  }

  /// Frees a place: its token is stale from here on. One that is listed as touched stays so, for
  /// nobody or for the next connection there, which then is flushed once for nothing.
  func remove(_ index: Int) {
    var fresh = Connection()
    fresh.generation = self[index].generation &+ 1
    fresh.isTouched = self[index].isTouched
    self[index].unsent.drop()
    unsafe self[index].certificate?.deallocate()
    self[index] = fresh
    unsafe free[counts.pointee.free] = Int32(index)
    unsafe counts.pointee.free += 1
    unsafe counts.pointee.open -= 1
  }

  // MARK: Connections to flush

  /// Lists a connection among those to flush; once is enough.
  func touch(_ index: Int) {
    if self[index].isTouched { return }
    self[index].isTouched = true
    unsafe touched[counts.pointee.touched] = Int32(index)
    unsafe counts.pointee.touched += 1
  }

  var hasTouched: Bool { unsafe counts.pointee.touched > 0 }

  /// Calls `body` for every connection that was touched before, and forgets them. Those that `body`
  /// touches are left for the next time.
  func takeTouched(_ body: (Int) -> Void) {
    let count = unsafe counts.pointee.touched
    for position in 0..<count {
      let index = Int(unsafe touched[position])
      self[index].isTouched = false
      body(index)
    }
    let more = unsafe counts.pointee.touched - count
    unsafe touched.update(from: touched + count, count: more)
    unsafe counts.pointee.touched = more
  }

  // MARK: Tokens

  /// The epoll token of a connection.
  func token(_ index: Int) -> UInt64 { UInt64(self[index].generation) << 32 | UInt64(index) }

  /// The place that a token names; nil where its connection is gone.
  func index(ofToken token: UInt64) -> Int? {
    let index = Int(token & 0xffff_ffff)
    guard index < usedCount, self[index].generation == UInt32(token >> 32),
      self[index].descriptor >= 0
    else { return nil }
    return index
  }
}

/// A loop's buffer for reading: one for all its connections, since each read is handed on at once.
@safe struct ReadBuffer: ~Copyable {
  private let bytes: UnsafeMutableRawBufferPointer

  init(capacity: Int) { unsafe bytes = .allocate(byteCount: capacity, alignment: 64) }

  deinit { unsafe bytes.deallocate() }

  /// Reads once and calls `body` with what came.
  func read(_ transport: Transport, _ body: (UnsafeRawBufferPointer) -> Void) -> Transfer {
    let result = unsafe transport.read(into: bytes)
    if case .moved(let count) = result, count > 0 {
      unsafe body(UnsafeRawBufferPointer(rebasing: bytes[0..<count]))
    }
    return result
  }

  /// Reads once, for nothing.
  func discard(_ transport: Transport) -> IOResult { unsafe transport.discard(into: bytes) }
}
