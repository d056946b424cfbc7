// What the report says of the machine, and how busy all of it was.
internal import Glibc
package import LoadReport
internal import Posix

extension Report.Environment {
  /// This machine. What cannot be read stays empty.
  package static func ofThisMachine() -> Report.Environment {
    var environment = Report.Environment()
    environment.processors = Machine.usableProcessors
    var names = utsname()
    if unsafe uname(&names) == 0 {
      environment.system = "\(text(of: names.sysname)) \(text(of: names.release))"
    }
    for line in (readSmallFile("/proc/cpuinfo") ?? "").split(separator: "\n")
    where line.hasPrefix("model name") {
      environment.processorModel = String(line.drop { $0 != ":" }.dropFirst().drop { $0 == " " })
      break
    }
    for line in (readSmallFile("/proc/meminfo") ?? "").split(separator: "\n")
    where line.hasPrefix("MemTotal:") {
      let kibibytes = line.split(separator: " ").dropFirst().first.flatMap { Int64($0) } ?? 0
      environment.memoryBytes = kibibytes.multipliedReportingOverflow(by: 1024).partialValue
    }
    return environment
  }
}

/// A field of utsname: a C string in an array of its own.
private func text<Field>(of field: Field) -> String {
  unsafe withUnsafeBytes(of: field) { bytes in
    unsafe String(decoding: bytes.prefix { $0 != 0 }, as: UTF8.self)
  }
}

/// A file of the kernel's, at most 1 MiB of it; nil where it can't be read.
func readSmallFile(_ path: String) -> String? {
  let number = unsafe open(path, O_RDONLY | O_CLOEXEC)
  guard number >= 0 else { return nil }
  let file = FileDescriptor(owning: number)
  var text: [UInt8] = []
  var buffer = [UInt8](repeating: 0, count: 16_384)
  while text.count < 1 << 20 {
    let result = unsafe buffer.withUnsafeMutableBytes {
      unsafe FileDescriptor.read(file.number, into: $0)
    }
    guard case .moved(let count) = result, count > 0 else { break }
    text += buffer[..<count]
  }
  return String(decoding: text, as: UTF8.self)
}

/// CPU time, since the machine was started, of the processors that this process may run on, together
/// (proc(5), /proc/stat).
struct MachineTime {
  /// In ticks of the kernel's clock.
  let busy: Double
  let all: Double

  /// nil where the kernel does not say.
  static func now() -> MachineTime? {
    guard let times = readSmallFile("/proc/stat"), let status = readSmallFile("/proc/self/status")
    else { return nil }
    return MachineTime(times, usable: usableProcessors(status))
  }

  /// - Parameters:
  ///   - text: /proc/stat: lines of cpu and a number, then user, nice, system, idle, iowait and others.
  ///   - usable: the numbers of the processors that count.
  init?(_ text: String, usable: [ClosedRange<Int>]) {
    var (all, idle) = (0.0, 0.0)
    for line in text.split(separator: "\n") where line.hasPrefix("cpu") {
      let fields = line.split(separator: " ")
      guard let number = fields.first.flatMap({ Int($0.dropFirst(3)) }),
        usable.contains(where: { $0.contains(number) })
      else { continue }
      // guest (9th) and guest_nice stand within user and nice.
      let ticks = fields.dropFirst().prefix(8).compactMap { Double($0) }
      guard ticks.count >= 5 else { return nil }
      all += ticks.reduce(0, +)
      idle += ticks[3] + ticks[4]
    }
    guard all > 0 else { return nil }
    self.all = all
    busy = all - idle
  }

  /// - Parameter status: /proc/self/status: among its lines "Cpus_allowed_list:\t0-3,8".
  static func usableProcessors(_ status: String) -> [ClosedRange<Int>] {
    let line = status.split(separator: "\n").first { $0.hasPrefix("Cpus_allowed_list:") }
    let list = line?.drop { !$0.isNumber } ?? ""
    return list.split(separator: ",").compactMap { part in
      let ends = part.split(separator: "-").compactMap { Int($0) }
      guard let first = ends.first, let last = ends.last, first <= last else { return nil }
      return first...last
    }
  }

  /// How busy these processors were since `earlier`, 0 to 1.
  func busyShare(since earlier: MachineTime) -> Double? {
    all > earlier.all ? min(1, max(0, (busy - earlier.busy) / (all - earlier.all))) : nil
  }
}

/// A time since the Unix epoch in UTC, ISO 8601: 2026-11-21T17:35:00Z.
func utcText(nanoseconds: Int64) -> String {
  var seconds = time_t(nanoseconds / 1_000_000_000)
  var fields = unsafe tm()
  var text = [CChar](repeating: 0, count: 32)
  // The format makes 20 characters of any year that 64 bits of nanoseconds can name.
  guard unsafe gmtime_r(&seconds, &fields) != nil,
    unsafe strftime(&text, text.count, "%Y-%m-%dT%H:%M:%SZ", &fields) > 0
  else { return "" }
  return String(decoding: text.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
}
