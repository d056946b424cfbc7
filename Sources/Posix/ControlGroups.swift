internal import CPlatform
internal import Glibc

/// How much processor time the process's control groups allow it (cgroups(7)): containers have their
/// limit there.
package enum ControlGroups {
  /// A file system of control groups.
  private struct Mount {
    /// What of the hierarchy is mounted, and where.
    let root: String
    let place: String
    let isUnified: Bool
  }

  /// So many processors' worth of time, the least that the process's group and the groups above it
  /// allow; nil where none of them has a limit, or none can be read.
  /// - Parameter prefix: what stands before every path, for tests: a folder with proc/self/cgroup,
  ///   proc/self/mountinfo, and what is mounted.
  package static func processorQuota(under prefix: String = "") -> Double? {
    guard let groups = contents(prefix + "/proc/self/cgroup"),
      let mounts = contents(prefix + "/proc/self/mountinfo")
    else { return nil }
    var least: Double?
    for mount in mounts.split(separator: "\n").compactMap(mount) {
      guard let path = path(of: groups, isUnified: mount.isUnified) else { continue }
      for folder in folders(mount, path) {
        guard let quota = quota(prefix + folder, isUnified: mount.isUnified) else { continue }
        least = min(least ?? quota, quota)
      }
    }
    return least
  }

  /// A line of mountinfo (proc_pid_mountinfo(5)); nil where what is mounted has no say on processors.
  private static func mount(_ line: Substring) -> Mount? {
    let fields = line.split(separator: " ")
    // Optional fields stand before the dash, the type and its options behind it.
    guard let dash = fields.firstIndex(of: "-"), dash >= 6, fields.count > dash + 3 else {
      return nil
    }
    let isUnified = fields[dash + 1] == "cgroup2"
    let hasProcessors =
      fields[dash + 1] == "cgroup" && fields[dash + 3].split(separator: ",").contains("cpu")
    guard isUnified || hasProcessors else { return nil }
    return Mount(
      root: unescaped(fields[3]), place: unescaped(fields[4]), isUnified: isUnified)
  }

  /// The process's path in a hierarchy, by lines such as `0::/a/b` and `4:cpu,cpuacct:/a/b`.
  private static func path(of groups: String, isUnified: Bool) -> String? {
    for line in groups.split(separator: "\n") {
      let fields = line.split(separator: ":", maxSplits: 2, omittingEmptySubsequences: false)
      guard fields.count == 3 else { continue }
      let isOurs =
        isUnified
        ? fields[0] == "0" && fields[1].isEmpty : fields[1].split(separator: ",").contains("cpu")
      if isOurs { return String(fields[2]) }
    }
    return nil
  }

  /// The folder of the process's group, and those above it up to where the hierarchy is mounted. A path
  /// that does not lead there, as where a container shows its host's, leaves the mount itself.
  private static func folders(_ mount: Mount, _ path: String) -> [String] {
    let root = mount.root.split(separator: "/")
    let names = path.split(separator: "/")
    var folder = mount.place == "/" ? "" : mount.place
    var folders = [folder]
    guard names.starts(with: root), !names.contains("..") else { return folders }
    for name in names.dropFirst(root.count) {
      folder += "/" + name
      folders.append(folder)
    }
    return folders
  }

  /// Processors' worth of time that one group allows.
  private static func quota(_ folder: String, isUnified: Bool) -> Double? {
    let names = isUnified ? ["cpu.max"] : ["cpu.cfs_quota_us", "cpu.cfs_period_us"]
    let words = names.flatMap { name in
      (contents("\(folder)/\(name)") ?? "").split { $0 == " " || $0 == "\n" }
    }
    // "max", or -1 in the older files, is no limit.
    guard words.count == 2, let quota = Int64(words[0]), let period = Int64(words[1]),
      quota > 0, period > 0
    else { return nil }
    return Double(quota) / Double(period)
  }

  /// A path as mountinfo writes it: blanks and the like as a backslash and three octal digits.
  private static func unescaped(_ text: Substring) -> String {
    var bytes: [UInt8] = []
    var rest = text.utf8[...]
    while let byte = rest.popFirst() {
      if byte == UInt8(ascii: "\\"),
        let code = UInt8(String(decoding: rest.prefix(3), as: UTF8.self), radix: 8)
      {
        bytes.append(code)
        rest = rest.dropFirst(3)
      } else {
        bytes.append(byte)
      }
    }
    return String(decoding: bytes, as: UTF8.self)
  }

  /// What a small file says; nil where it cannot be read.
  private static func contents(_ path: String) -> String? {
    guard let number = try? retrying({ unsafe hf_open_at(AT_FDCWD, path, O_RDONLY) }) else {
      return nil
    }
    let descriptor = FileDescriptor(owning: number)
    var bytes: [UInt8] = []
    var part = [UInt8](repeating: 0, count: 4096)
    while bytes.count < 1 << 20 {
      // The array is ours for the length of the call.
      let result = unsafe part.withUnsafeMutableBytes {
        unsafe FileDescriptor.read(descriptor.number, into: $0)
      }
      guard case .moved(let count) = result else { return nil }
      if count == 0 { break }
      bytes += part[..<count]
    }
    return String(decoding: bytes, as: UTF8.self)
  }
}
