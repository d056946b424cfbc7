// Where the tables lie: address space reserved once for a table's cap, which the kernel fills page by
// page as it is touched. So records never move, a record's number gives its address, and a large cap
// costs nothing until it is used.
//
// The subscripts give addresses (unsafeAddress) instead of yielding from coroutines (_modify): it is all
// they mean, it is cheap in debug builds too, and the thread sanitizer takes what a coroutine yields
// for an access to the whole table.
internal import CPlatform

#if canImport(Glibc)
  internal import Glibc
#else
  internal import Darwin
#endif

/// Whether the system would map `bytes` more now: it may limit the address space (setrlimit(2),
/// RLIMIT_AS), or promise no more memory than it has (vm.overcommit_memory).
func hasAddressSpace(bytes: Int) -> Bool {
  let mapping = unsafe mmap(
    nil, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)
  guard let mapping = unsafe mapping, Int(bitPattern: mapping) != -1 else { return false }
  _ = unsafe munmap(mapping, bytes)
  return true
}

/// Asks for small pages there, where the system gives huge ones to whoever does not ask.
private func adviseSmallPages(_ address: UnsafeMutableRawPointer, _ length: Int) {
  #if os(Linux)
    // A hint: where it does nothing, there are none, or all are.
    _ = unsafe madvise(address, length, MADV_NOHUGEPAGE)
  #endif
}

/// Which pages the kernel fills a region with.
package enum PageSize {
  /// A page of 4 KiB is filled in about a microsecond.
  case small
  /// Pages of 2 MiB, where the kernel gives them: a look at any element costs no walk through the page
  /// tables. Filling one stops the thread for 0.2 ms, and for 5 ms in a virtual machine whose host takes
  /// free huge pages back.
  case huge
}

/// Memory that is zero at first. A large piece has pages of its own, which the kernel clears as they are
/// touched: so neither taking it nor giving it back, page by page, stops anybody for long.
enum ZeroedMemory {
  private static let pageBytes = 4096
  private static let heapBytesMax = 64 * 1024

  /// Aligned to a cache line.
  /// - Parameter isFilled: all pages at once, which takes half as long: where nobody waits.
  static func allocate(byteCount: Int, isFilled: Bool = false) -> UnsafeMutableRawPointer {
    if byteCount <= heapBytesMax {
      let memory = UnsafeMutableRawPointer.allocate(byteCount: byteCount, alignment: 64)
      unsafe memory.initializeMemory(as: UInt8.self, repeating: 0, count: byteCount)
      return unsafe memory
    }
    let mapping = unsafe mmap(
      nil, byteCount, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)
    guard let mapping = unsafe mapping, Int(bitPattern: mapping) != -1 else {
      preconditionFailure("no \(byteCount) bytes of memory for a table")
    }
    unsafe adviseSmallPages(mapping, byteCount)
    if isFilled { unsafe hf_fill_pages(mapping, byteCount) }
    return unsafe mapping
  }

  /// Frees what `allocate` gave, but for the first `freedBytes`, which `freePages` has.
  static func free(_ memory: UnsafeMutableRawPointer, byteCount: Int, after freedBytes: Int = 0) {
    if byteCount <= heapBytesMax {
      unsafe memory.deallocate()
    } else {
      _ = unsafe munmap(memory + freedBytes, byteCount - freedBytes)
    }
  }

  /// Has the pages of `count` bytes from `offset` on filled, within what `allocate` gave, where that has pages of its
  /// own.
  static func fillPages(
    of memory: UnsafeMutableRawPointer, byteCount: Int, _ offset: Int, count: Int
  ) {
    precondition(offset % pageBytes == 0 && offset + count <= byteCount)
    if byteCount > heapBytesMax { unsafe hf_fill_pages(memory + offset, count) }
  }

  /// Frees `count` bytes from `offset` on, whole pages within what `allocate` gave, where that has pages of
  /// its own.
  static func freePages(
    of memory: UnsafeMutableRawPointer, byteCount: Int, _ offset: Int, count: Int
  ) {
    precondition(offset % pageBytes == 0 && count % pageBytes == 0 && offset + count <= byteCount)
    if byteCount > heapBytesMax { _ = unsafe munmap(memory + offset, count) }
  }
}

/// `capacity` elements in reserved address space, all bits zero at first. A handle: copies name the
/// same elements, and the store that made it frees it when no session is left.
/// Elements need no initialisation beyond zero bits and hold nothing that must be released.
@safe package struct Region<Element: ~Copyable>: @unchecked Sendable {
  private static var alignment: Int { 2 << 20 }

  private let base: UnsafeMutablePointer<Element>
  package let capacity: Int
  private let mapping: UnsafeMutableRawPointer
  private let mappingLength: Int

  /// What a region of this size takes of the address space.
  static func mappedBytes(capacity: Int) -> Int {
    max(1, capacity) * MemoryLayout<Element>.stride + alignment
  }

  package init(capacity: Int, pages: PageSize) {
    let length = max(1, capacity) * MemoryLayout<Element>.stride
    let mappingLength = Self.mappedBytes(capacity: capacity)
    let mapping = unsafe mmap(
      nil, mappingLength, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0
    )
    guard let mapping = unsafe mapping, Int(bitPattern: mapping) != -1 else {
      preconditionFailure("no \(length) bytes of address space for a table: lower its cap")
    }
    let aligned = unsafe mapping.alignedUp(toMultipleOf: Self.alignment)
    switch pages {
    case .small: unsafe adviseSmallPages(aligned, length)
    case .huge: unsafe hf_advise_huge_pages(aligned, length)
    }
    self.capacity = capacity
    unsafe self.mapping = mapping
    self.mappingLength = mappingLength
    // Fresh pages are zero, which is a valid Element by the rule above.
    unsafe base = aligned.bindMemory(to: Element.self, capacity: max(1, capacity))
  }

  /// Gives the pages back. Nobody may use any copy of this handle afterwards.
  package func free() { _ = unsafe munmap(mapping, mappingLength) }

  /// The element's address. Asks no more of `index` than the caller has checked: it must be below
  /// `capacity`.
  @inline(__always)
  package func address(_ index: UInt32) -> UnsafeMutablePointer<Element> {
    unsafe base + Int(index)
  }

  @inline(__always)
  package subscript(index: UInt32) -> Element {
    // The numbers come from the store's own tables, never from outside.
    unsafeAddress {
      assert(index < capacity)
      return unsafe UnsafePointer(address(index))
    }
    nonmutating unsafeMutableAddress {
      assert(index < capacity)
      return unsafe address(index)
    }
  }
}

/// A fixed number of elements, each on cache lines of its own, so that threads that use different ones
/// do not slow each other down. A handle, as Region.
@safe package struct PaddedArray<Element: ~Copyable>: @unchecked Sendable {
  private static var lineBytes: Int { 128 }

  private let base: UnsafeMutableRawPointer
  package let count: Int
  private let stride: Int

  package init(count: Int, _ make: (Int) -> Element) {
    let line = Self.lineBytes
    stride = (MemoryLayout<Element>.size + line - 1) / line * line
    self.count = count
    unsafe base = .allocate(byteCount: stride * count, alignment: line)
    for index in 0..<count {
      let address = unsafe base.advanced(by: index * stride).assumingMemoryBound(to: Element.self)
      unsafe address.initialize(to: make(index))
    }
  }

  var bytes: Int { stride * count }

  /// Frees the memory. Nobody may use any copy of this handle afterwards.
  package func free() {
    for index in 0..<count { unsafe address(index).deinitialize(count: 1) }
    unsafe base.deallocate()
  }

  @inline(__always)
  package func address(_ index: Int) -> UnsafeMutablePointer<Element> {
    assert(index >= 0 && index < count)
    return unsafe (base + index * stride).assumingMemoryBound(to: Element.self)
  }

  @inline(__always)
  package subscript(index: Int) -> Element {
    // The numbers come from the store's own code, never from outside.
    unsafeAddress { unsafe UnsafePointer(address(index)) }
    nonmutating unsafeMutableAddress { unsafe address(index) }
  }
}

/// A fixed number of plain values behind an address that does not change: unlike an array in a struct,
/// it is never copied by accident. A handle, as Region.
@safe package struct FixedArray<Element: BitwiseCopyable> {
  private let base: UnsafeMutablePointer<Element>
  private let capacity: Int

  package init(capacity: Int, repeating element: Element) {
    self.capacity = capacity
    unsafe base = .allocate(capacity: capacity)
    unsafe base.initialize(repeating: element, count: capacity)
  }

  package func free() { unsafe base.deallocate() }

  @inline(__always)
  package func address(_ index: Int) -> UnsafeMutablePointer<Element> {
    precondition(index >= 0 && index < capacity, "index out of range")
    return unsafe base + index
  }

  @inline(__always)
  package subscript(index: Int) -> Element {
    unsafeAddress { unsafe UnsafePointer(address(index)) }
    nonmutating unsafeMutableAddress { unsafe address(index) }
  }
}
