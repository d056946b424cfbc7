// The CPU time of other processes, as /proc tells it.
internal import CPlatform
internal import Glibc

extension Machine {
  /// CPU time of process `pid` and of those it has started, in nanoseconds; of those that have ended to
  /// the hundredth of a second. nil if there is no such process.
  package static func processCPUNanoseconds(of pid: Int32) -> Int64? {
    var clock = clockid_t()
    var time = timespec()
    guard unsafe clock_getcpuclockid(pid, &clock) == 0, unsafe clock_gettime(clock, &time) == 0
    else { return nil }
    var sum = Int64(time.tv_sec) * 1_000_000_000 + Int64(time.tv_nsec)
    sum += endedChildrenNanoseconds(of: pid)
    for child in children(of: pid) { sum += processCPUNanoseconds(of: child) ?? 0 }
    return sum
  }

  /// proc(5): cutime and cstime, of children that have ended and were waited for.
  private static func endedChildrenNanoseconds(of pid: Int32) -> Int64 {
    let line = wholeFile("/proc/\(pid)/stat")
    // The name stands in parentheses and may hold anything; cutime is the 14th field behind it.
    guard let end = line.lastIndex(of: ")") else { return 0 }
    let fields = line[end...].split(separator: " ")
    guard fields.count > 15, let user = Int64(fields[14]), let system = Int64(fields[15]) else {
      return 0
    }
    return (user + system) * (1_000_000_000 / Int64(max(1, sysconf(Int32(_SC_CLK_TCK)))))
  }

  private static func children(of pid: Int32) -> [Int32] {
    guard let tasks = try? Directory(path: "/proc/\(pid)/task").names() else { return [] }
    return tasks.flatMap { task in
      wholeFile("/proc/\(pid)/task/\(task)/children").split(separator: " ").compactMap { Int32($0) }
    }
  }

  /// What a small file of /proc says; nothing where it is gone.
  private static func wholeFile(_ path: String) -> String {
    guard let number = try? retrying({ unsafe hf_open_at(AT_FDCWD, path, O_RDONLY) }) else {
      return ""
    }
    let file = FileDescriptor(owning: number)
    var bytes = [UInt8](repeating: 0, count: 4_096)
    let result = unsafe bytes.withUnsafeMutableBytes {
      unsafe FileDescriptor.read(file.number, into: $0)
    }
    guard case .moved(let count) = result else { return "" }
    return String(decoding: bytes.prefix(count), as: UTF8.self)
  }
}
