internal import CHoldfastProto
internal import CProtobufC
internal import StockStore

/// Where protobuf-c unpacks requests: one block per loop, emptied before each message, so that
/// unpacking costs no malloc and nothing need be freed.
///
/// Each piece is preceded by its size. That gives strings their true length, which protobuf-c drops: a
/// string with a NUL byte inside would otherwise be read as a shorter one.
@safe final class MessageArena {
  /// The worst message of 80 KiB, all empty submessages or unknown fields, unpacks to less. Reserved
  /// address space; pages are touched as they are needed.
  private static let capacity = 8 * 1024 * 1024
  private static let header = 16

  private let state: UnsafeMutablePointer<State>
  private let allocator: UnsafeMutablePointer<ProtobufCAllocator>

  @unsafe private struct State {
    let base: UnsafeMutableRawPointer
    var used = 0
  }

  init() {
    unsafe state = .allocate(capacity: 1)
    unsafe state.initialize(
      to: State(base: .allocate(byteCount: Self.capacity, alignment: 64)))
    unsafe allocator = .allocate(capacity: 1)
    unsafe allocator.initialize(
      to: ProtobufCAllocator(
        alloc: { data, size in unsafe MessageArena.allocate(data, size) },
        free: { _, _ in }, allocator_data: state))
  }

  deinit {
    unsafe state.pointee.base.deallocate()
    unsafe state.deallocate()
    unsafe allocator.deallocate()
  }

  /// The type of the functions that protoc-c generates.
  typealias Unpack<Message> = (
    UnsafeMutablePointer<ProtobufCAllocator>?, Int, UnsafePointer<UInt8>?
  ) -> UnsafeMutablePointer<Message>?

  /// Unpacks `message`; nil where it is malformed. The result lives until the next call.
  func unpack<Message>(
    _ message: Span<UInt8>, with unpack: Unpack<Message>
  ) -> UnsafeMutablePointer<Message>? {
    unsafe state.pointee.used = 0
    return unsafe message.withUnsafeBufferPointer { bytes in
      // nil for malformed bytes or where the arena is full; proto3 has no required fields.
      unsafe unpack(allocator, bytes.count, bytes.baseAddress)
    }
  }

  /// The bytes of a string that was unpacked, NULs included.
  func bytes(_ string: UnsafeMutablePointer<CChar>?) -> BorrowedBytes {
    guard let string = unsafe string else { return .empty }
    let address = UnsafeRawPointer(string)
    let base = unsafe UnsafeRawPointer(state.pointee.base)
    // An unset string is protobuf-c's own empty one, outside the arena.
    guard unsafe address > base, unsafe address < base + state.pointee.used else { return .empty }
    let size = unsafe (address - Self.header).load(as: Int.self)
    return unsafe BorrowedBytes(address.assumingMemoryBound(to: UInt8.self), count: size - 1)
  }

  private static func allocate(_ data: UnsafeMutableRawPointer?, _ size: Int)
    -> UnsafeMutableRawPointer?
  {
    guard let state = unsafe data?.assumingMemoryBound(to: State.self),
      size >= 0, size <= capacity - header * 2 - (unsafe state.pointee.used)
    else { return nil }
    let start = unsafe state.pointee.base + state.pointee.used
    unsafe start.storeBytes(of: size, as: Int.self)
    unsafe state.pointee.used += (header + size + 15) & ~15
    return unsafe start + header
  }
}
