// Memory for connections and for bodies that outgrow their stream: size classes with free lists, one
// pool per loop thread, so that a call costs no malloc and no lock. Memory stays with the pool.

/// Size classes of 64 bytes doubling to 4 KiB; what is larger goes to malloc, and from there back to
/// the system.
@safe struct MemoryPool {
  private static let classes = 7
  private static let smallest = 64
  private static let slabBytes = 256 * 1024
  /// Bytes before each block: its class, and 16-byte alignment kept.
  private static let header = 16

  // A singly linked free list per class: the next block's address stands in the block itself.
  private let heads: UnsafeMutablePointer<UnsafeMutableRawPointer?>
  private var slab: UnsafeMutableRawPointer?
  private var slabLeft = 0

  init() {
    unsafe heads = .allocate(capacity: Self.classes)
    unsafe heads.initialize(repeating: nil, count: Self.classes)
  }

  mutating func allocate(_ bytes: Int) -> UnsafeMutableRawPointer? {
    let index = Self.sizeClass(bytes)
    guard index < Self.classes else {
      guard bytes < Int.max - Self.header else { return nil }
      return unsafe Self.mark(
        UnsafeMutableRawPointer.allocate(byteCount: bytes + Self.header, alignment: 16), bytes)
    }
    if let block = unsafe heads[index] {
      unsafe heads[index] = block.load(as: UnsafeMutableRawPointer?.self)
      return unsafe block
    }
    let size = Self.smallest << index + Self.header
    if slabLeft < size {
      // The rest of the old slab is given up: at most 4 KiB of 256.
      unsafe slab = .allocate(byteCount: Self.slabBytes, alignment: 64)
      slabLeft = Self.slabBytes
    }
    guard let at = unsafe slab else { return nil }
    unsafe slab = at + size
    slabLeft -= size
    return unsafe Self.mark(at, Self.smallest << index)
  }

  mutating func free(_ block: UnsafeMutableRawPointer?) {
    guard let block = unsafe block else { return }
    let size = unsafe Self.size(of: block)
    let index = Self.sizeClass(size)
    if index < Self.classes {
      unsafe block.storeBytes(of: heads[index], as: UnsafeMutableRawPointer?.self)
      unsafe heads[index] = block
    } else {
      unsafe (block - Self.header).deallocate()
    }
  }

  mutating func reallocate(_ block: UnsafeMutableRawPointer?, _ bytes: Int)
    -> UnsafeMutableRawPointer?
  {
    guard let block = unsafe block else { return unsafe allocate(bytes) }
    let size = unsafe Self.size(of: block)
    if bytes <= size { return unsafe block }
    guard let larger = unsafe allocate(bytes) else { return nil }
    unsafe larger.copyMemory(from: block, byteCount: size)
    unsafe free(block)
    return unsafe larger
  }

  /// The usable size of a block.
  static func size(of block: UnsafeMutableRawPointer) -> Int {
    unsafe (block - header).load(as: Int.self)
  }

  private static func mark(_ start: UnsafeMutableRawPointer, _ bytes: Int)
    -> UnsafeMutableRawPointer
  {
    unsafe start.storeBytes(of: bytes, as: Int.self)
    return unsafe start + header
  }

  private static func sizeClass(_ bytes: Int) -> Int {
    bytes <= smallest ? 0 : Int.bitWidth - (bytes - 1).leadingZeroBitCount - 6
  }
}
