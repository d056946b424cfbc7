// A PostgreSQL primary with two standbys of which one must have a commit, for all tests of this process.
import Foundation
import Posix
import Testing

@testable import PostgresLog

final class TestEngine: Sendable {
  /// Whether its servers are installed; without them these tests are left out.
  static let isInstalled =
    FileManager.default.fileExists(atPath: "/usr/lib/postgresql")
    && !((try? FileManager.default.contentsOfDirectory(atPath: "/usr/lib/postgresql")) ?? [])
      .isEmpty

  static let shared = Result { try TestEngine() }

  let folder: String
  private let host: String

  /// Ended by itself when this process ends.
  private init() throws {
    folder = NSTemporaryDirectory() + "holdfast-engine-\(getpid())"
    let log = folder + ".log"
    var child = try ChildProcess([Self.script, "run", folder], log: log)
    var text = ""
    while text.split(separator: "\n").count < 2 {
      if let ending = child.poll() { throw Failure("the engine: \(ending): \(text)") }
      usleep(20_000)
      text = (try? String(contentsOfFile: log, encoding: .utf8)) ?? ""
    }
    try? FileManager.default.removeItem(atPath: log)
    host = String(text.split(separator: "\n")[0].dropLast("holdfast".count))
    // It looks after this process itself, and its servers are in no group of it.
    let kept = KeptChild(child)
    _ = unsafe Unmanaged.passRetained(kept)
  }

  private final class KeptChild {
    let child: ChildProcess
    init(_ child: consuming ChildProcess) { self.child = child }
  }

  private static let script =
    URL(fileURLWithPath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
    .deletingLastPathComponent().path + "/scripts/engine.py"

  struct Failure: Error, CustomStringConvertible {
    let description: String
    init(_ description: String) { self.description = description }
  }

  /// Of a database, for its superuser.
  func address(_ database: String) -> String { host + "\(database)?passfile=\(folder)/pgpass" }

  /// A database of its own.
  func makeDatabase() throws -> String {
    let name = "test_" + String(UInt32.random(in: 0 ... .max))
    let connection = try PostgresConnection(address("holdfast"), nanosecondsEach: 10_000_000_000)
    try connection.run(script: "create database \(name)", nanoseconds: 30_000_000_000)
    return address(name)
  }

  /// A command of scripts/engine.py.
  func run(_ command: String, _ name: String? = nil) throws {
    var child = try ChildProcess(
      [Self.script, command, folder] + (name.map { [$0] } ?? []), log: folder + "/commands.log")
    while true {
      if let ending = child.poll() {
        #expect(ending == .exited(status: 0))
        return
      }
      usleep(10_000)
    }
  }
}
