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

  /// Ended by itself when this process ends. No ChildProcess: tests of that kill the group that was started last.
  private init() throws {
    folder = NSTemporaryDirectory() + "holdfast-engine-\(getpid())"
    let engine = Process()
    let output = Pipe()
    engine.executableURL = URL(fileURLWithPath: Self.script)
    engine.arguments = ["run", folder]
    engine.standardOutput = output
    try engine.run()
    var text = ""
    while text.split(separator: "\n").count < 2 {
      let data = output.fileHandleForReading.availableData
      if data.isEmpty { throw Failure("the engine did not come up: \(text)") }
      text += String(decoding: data, as: UTF8.self)
    }
    host = String(text.split(separator: "\n")[0].dropLast("holdfast".count))
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
    let arguments = [command, folder] + (name.map { [$0] } ?? [])
    let process = try Process.run(URL(fileURLWithPath: Self.script), arguments: arguments)
    process.waitUntilExit()
    #expect(process.terminationStatus == 0)
  }
}
