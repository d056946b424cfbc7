import Foundation
import Posix
import Testing

@Suite("Programs that are started and stopped")
struct ChildProcessTests {
  /// A file that no other test has, gone when the test is over.
  private struct Log: ~Copyable {
    let path = "/tmp/holdfast-child-\(Machine.random64())"

    var text: String { (try? String(contentsOfFile: path, encoding: .utf8)) ?? "" }

    /// Waits until it says `word`, ten seconds at most.
    func wait(for word: String) {
      for _ in 0..<5_000 where !text.contains(word) { usleep(2_000) }
    }

    deinit { unsafe unlink(path) }
  }

  /// Polls until it has ended, ten seconds at most.
  private static func ending(of child: inout ChildProcess) -> ChildProcess.Ending? {
    for _ in 0..<5_000 {
      if let ending = child.poll() { return ending }
      usleep(2_000)
    }
    return nil
  }

  private static func isAlive(_ pid: Int32) -> Bool { kill(pid, 0) == 0 }

  @Test("What it says goes into the log, and how it ended is known", arguments: [0, 3])
  func endsByItself(status: Int32) throws {
    let log = Log()
    var child = try ChildProcess(
      ["sh", "-c", "echo out; echo err >&2; exit \(status)"], log: log.path)
    #expect(ChildProcessTests.ending(of: &child) == .exited(status: status))
    #expect(log.text == "out\nerr\n")
    #expect(child.poll() == nil)
  }

  @Test("A program that there is not is an error, not a child")
  func noSuchProgram() {
    let log = Log()
    #expect(throws: Errno.noSuchFile) {
      _ = try ChildProcess(["/nowhere/at-all"], log: log.path)
    }
    #expect(throws: Errno.self) { _ = try ChildProcess(["true"], log: "/nowhere/log") }
  }

  @Test("SIGTERM ends it, and its signals are as a shell leaves them")
  func stops() throws {
    let log = Log()
    // As the load generator does.
    signal(SIGPIPE, SIG_IGN)
    var child = try ChildProcess(["sleep", "100"], log: log.path)
    #expect(child.stop(patienceNanoseconds: .max) == .killed(signal: SIGTERM))
    var piped = try ChildProcess(["sh", "-c", "kill -PIPE $$; echo survived"], log: log.path)
    #expect(ChildProcessTests.ending(of: &piped) == .killed(signal: SIGPIPE))
  }

  @Test("A stubborn one is killed, and so is what it has started")
  func stubborn() throws {
    let log = Log()
    var child = try ChildProcess(
      ["sh", "-c", "trap '' TERM; sleep 100 & echo $!; while :; do sleep 100; done"], log: log.path)
    log.wait(for: "\n")
    let grandchild = try #require(
      Int32(log.text.split(separator: "\n").first ?? ""))
    #expect(ChildProcessTests.isAlive(grandchild))
    #expect(child.stop(patienceNanoseconds: 50_000_000) == .killed(signal: SIGKILL))
    // Killed, but reaped by whoever adopted it: it may be a zombie for a moment.
    for _ in 0..<5_000 where ChildProcessTests.isAlive(grandchild) { usleep(2_000) }
    #expect(!ChildProcessTests.isAlive(grandchild))
  }

  @Test("What a program leaves behind goes with it")
  func leavesNobody() throws {
    let log = Log()
    var child = try ChildProcess(["sh", "-c", "sleep 100 & echo $!"], log: log.path)
    #expect(ChildProcessTests.ending(of: &child) == .exited(status: 0))
    let grandchild = try #require(
      Int32(log.text.split(separator: "\n").first ?? ""))
    for _ in 0..<5_000 where ChildProcessTests.isAlive(grandchild) { usleep(2_000) }
    #expect(!ChildProcessTests.isAlive(grandchild))
  }

  @Test("It goes when its value goes")
  func goesOutOfScope() throws {
    let log = Log()
    let identifier: Int32
    do {
      let child = try ChildProcess(["sleep", "100"], log: log.path)
      identifier = child.identifier
      #expect(ChildProcessTests.isAlive(identifier))
    }
    #expect(!ChildProcessTests.isAlive(identifier))
  }

  @Test("CPU time counts what a program's children use, living and ended")
  func processTime() throws {
    let log = Log()
    let work = "i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done"
    // The first works and ends; the second works in a child that lives on, for as long as somebody looks.
    var child = try ChildProcess(
      ["sh", "-c", "sh -c '\(work)'; echo first; sh -c 'while :; do :; done' & wait"], log: log.path
    )
    log.wait(for: "first")
    let first = try #require(Machine.processCPUNanoseconds(of: child.identifier))
    #expect(first >= 10_000_000)
    var second = first
    for _ in 0..<5_000 where second < first + 10_000_000 {
      usleep(2_000)
      second = try #require(Machine.processCPUNanoseconds(of: child.identifier))
    }
    #expect(second >= first + 10_000_000)
    _ = child.stop(patienceNanoseconds: 1_000_000_000)
    #expect(Machine.processCPUNanoseconds(of: child.identifier) == nil)
  }
}
