import FoundationEssentials
import Posix
import Testing

@Suite("Limits of processor time in control groups")
struct ControlGroupTests {
  /// What a tree of files stands for.
  struct Case: Sendable, CustomTestStringConvertible {
    let testDescription: String
    let cgroup: String
    let mountinfo: String
    let files: [String: String]
    let quota: Double?

    init(
      _ description: String, _ cgroup: String, _ mountinfo: String, _ files: [String: String],
      _ quota: Double?
    ) {
      testDescription = description
      self.cgroup = cgroup
      self.mountinfo = mountinfo
      self.files = files
      self.quota = quota
    }
  }

  private static let unified =
    "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n"
  private static let old =
    "33 29 0:29 / /sys/fs/cgroup/cpu,cpuacct rw shared:12 - cgroup cgroup rw,cpu,cpuacct\n"
    + "34 29 0:30 / /sys/fs/cgroup/memory rw shared:13 - cgroup cgroup rw,memory\n"

  static let cases = [
    Case(
      "a quarter", "0::/a\n", unified, ["sys/fs/cgroup/a/cpu.max": "25000 100000\n"], 0.25),
    Case(
      "more than one", "0::/a\n", unified, ["sys/fs/cgroup/a/cpu.max": "150000 100000\n"], 1.5),
    Case("no limit", "0::/a\n", unified, ["sys/fs/cgroup/a/cpu.max": "max 100000\n"], nil),
    Case(
      "the least on the way up", "0::/a/b/c\n", unified,
      [
        "sys/fs/cgroup/a/cpu.max": "50000 100000\n",
        "sys/fs/cgroup/a/b/cpu.max": "max 100000\n",
        "sys/fs/cgroup/a/b/c/cpu.max": "200000 100000\n",
      ], 0.5),
    Case(
      "a namespace of its own", "0::/\n", unified, ["sys/fs/cgroup/cpu.max": "30000 100000\n"], 0.3),
    Case(
      "a part of the hierarchy is mounted", "0::/docker/x/inner\n",
      "30 23 0:26 /docker/x /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n",
      ["sys/fs/cgroup/inner/cpu.max": "70000 100000\n"], 0.7),
    Case(
      "a path of the host", "0::/../../elsewhere\n", unified,
      ["sys/fs/cgroup/cpu.max": "40000 100000\n"], 0.4),
    Case(
      "a blank in the place", "0::/a\n", "30 23 0:26 / /my\\040groups rw - cgroup2 cgroup2 rw\n",
      ["my groups/a/cpu.max": "25000 100000\n"], 0.25),
    Case(
      "the older hierarchy", "4:memory:/m\n3:cpu,cpuacct:/a\n0::/\n", old,
      [
        "sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_quota_us": "50000\n",
        "sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_period_us": "100000\n",
      ], 0.5),
    Case(
      "the older hierarchy without a limit", "3:cpu,cpuacct:/a\n", old,
      [
        "sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_quota_us": "-1\n",
        "sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_period_us": "100000\n",
      ], nil),
    Case("no files", "0::/a\n", unified, [:], nil),
    Case("no groups", "", unified, ["sys/fs/cgroup/cpu.max": "25000 100000\n"], nil),
    Case(
      "nonsense", "0::/a\nx\n:::\n", "\n- - -\n1 2 3\n" + unified,
      ["sys/fs/cgroup/a/cpu.max": "-3 0 7\n", "sys/fs/cgroup/cpu.max": "99999999999999999999 1\n"],
      nil),
    Case("a period of nothing", "0::/a\n", unified, ["sys/fs/cgroup/a/cpu.max": "100 0\n"], nil),
  ]

  @Test("The least quota of the process's groups counts", arguments: cases)
  func quota(_ tree: Case) throws {
    let tree = try Tree(
      tree.files.merging(
        ["proc/self/cgroup": tree.cgroup, "proc/self/mountinfo": tree.mountinfo]) { $1 },
      expected: tree.quota)
    #expect(ControlGroups.processorQuota(under: tree.path) == tree.expected)
  }

  @Test("Where nothing can be read there is no limit, and this machine has a processor")
  func nothing() {
    #expect(ControlGroups.processorQuota(under: "/nonexistent") == nil)
    #expect(Machine.usableProcessors >= 1)
  }

  /// Files in a folder, gone with it.
  private struct Tree: ~Copyable {
    let path = "/tmp/holdfast-groups-\(Machine.random64())"
    let expected: Double?

    init(_ files: [String: String], expected: Double?) throws {
      self.expected = expected
      for (name, text) in files {
        let file = URL(filePath: "\(path)/\(name)")
        try FileManager.default.createDirectory(
          at: file.deletingLastPathComponent(), withIntermediateDirectories: true)
        try Data(text.utf8).write(to: file)
      }
    }

    deinit { try? FileManager.default.removeItem(atPath: path) }
  }
}
