// What the kernel says of this process.
internal import CPlatform
internal import Glibc

/// This process now, as /proc tells it (proc(5)).
package struct ProcessStatus: Sendable {
  /// Bytes of memory that is there, and of address space that is taken.
  package let residentBytes: Int
  package let virtualBytes: Int
  package let threads: Int
  package let openDescriptors: Int
  /// What `openDescriptors` cannot pass (RLIMIT_NOFILE).
  package let openDescriptorsMax: Int

  /// nil where there is no /proc.
  package init?() {
    guard let line = Self.contents("/proc/self/stat"), let end = line.lastIndex(of: ")") else {
      return nil
    }
    // The program's name stands in parentheses and may hold anything; num_threads, vsize and rss are the 18th,
    // 21st and 22nd field behind it.
    let fields = line[line.index(after: end)...].split(separator: " ")
    guard fields.count > 21, let threads = Int(fields[17]), let virtual = Int(fields[20]),
      let pages = Int(fields[21])
    else { return nil }
    self.threads = threads
    virtualBytes = virtual
    residentBytes = pages * sysconf(Int32(_SC_PAGESIZE))
    openDescriptors = Self.countDescriptors()
    openDescriptorsMax = Machine.raiseDescriptorLimit()
  }

  /// Linux 6.2 and newer say it as the directory's size; before, there is a name for each, and one for reading
  /// them.
  private static func countDescriptors() -> Int {
    if let size = try? FileStatus(path: "/proc/self/fd").byteCount, size > 0 { return size }
    guard let names = try? Directory(path: "/proc/self/fd").names() else { return 0 }
    return max(0, names.count - 2)
  }

  /// A file of /proc up to 4 KiB; nil where there is none.
  private static func contents(_ path: String) -> String? {
    guard let number = try? retrying({ unsafe hf_open_at(AT_FDCWD, path, O_RDONLY) }) else {
      return nil
    }
    let file = FileDescriptor(owning: number)
    var bytes = [UInt8](repeating: 0, count: 4_096)
    let result = unsafe bytes.withUnsafeMutableBytes {
      unsafe FileDescriptor.read(file.number, into: $0)
    }
    guard case .moved(let count) = result else { return nil }
    return String(decoding: bytes.prefix(count), as: UTF8.self)
  }
}
