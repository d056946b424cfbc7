import Testing

@testable import LoadKit

@Suite struct ServerCommandTests {
  @Test(
    arguments: [
      ("", []), ("  \t ", []), ("a b", ["a", "b"]), (" a\n  b ", ["a", "b"]),
      ("'a b' c", ["a b", "c"]), ("\"a b\" c", ["a b", "c"]), ("a'b'\"c\"d", ["abcd"]),
      ("''", [""]), ("a \"\" b", ["a", "", "b"]), ("'\"'", ["\""]), ("\"'\"", ["'"]),
      ("a\\ b", ["a b"]), ("\\'a\\\"", ["'a\""]), ("'a\\b'", ["a\\b"]),
      ("\"a\\b\"", ["a\\b"]), ("\"a\\\"b\\\\\"", ["a\"b\\"]),
      ("$HOME *.x | > #a", ["$HOME", "*.x", "|", ">", "#a"]),
      ("sh -c 'exec x --port {port}'", ["sh", "-c", "exec x --port {port}"]),
    ] as [(String, [String])])
  func words(command: String, words: [String]) throws {
    #expect(try ServerCommand.split(command) == words)
  }

  @Test(arguments: ["'a", "\"a", "a\\", "\"a\\", "'a\\'b'"])
  func unfinishedWords(command: String) {
    #expect(throws: LoadError.self) { _ = try ServerCommand.split(command) }
  }

  @Test(
    arguments: [
      ("x {port}", nil, "x {port}"), ("a=x {port}", "a", "x {port}"),
      ("single-writer=x {port}", "single-writer", "x {port}"), ("/a=b {port}", nil, "/a=b {port}"),
      ("=x {port}", nil, "=x {port}"), ("x --p={port}", nil, "x --p={port}"),
    ] as [(String, String?, String)])
  func names(argument: String, name: String?, command: String) throws {
    let server = try ServerCommand(argument)
    #expect(server.name == name && server.command == command)
  }

  @Test(arguments: ["", "a=", "x", "x --port 5", "a=x {prot}", "x '{port}"])
  func senseless(argument: String) {
    #expect(throws: LoadError.self) { _ = try ServerCommand(argument) }
  }

  @Test func placeholders() throws {
    let server = try ServerCommand("x {port} --a={admin}:{port} {other} {} { {data {{port}}")
    let values = ["port": "1", "admin": "2", "data": "/d"]
    #expect(
      server.arguments(values) == [
        "x", "1", "--a=2:1", "{other}", "{}", "{", "{data", "{1}",
      ])
    // What is put in is not looked through again.
    #expect(try ServerCommand("x {port}").arguments(["port": "{port}"]) == ["x", "{port}"])
    #expect(server.uses("admin") && !server.uses("data"))
  }

  @Test(
    arguments: [
      (["s {port} --loops 1", "s {port} --loops 2"], ["1", "2"]),
      (["s {port}", "s {port}"], ["s", "s (2)"]),
      (["/a/s {port}", "/b/s {port} --x", "/b/s {port}"], ["/a/s", "--x", "s"]),
      (["a=s {port}", "a=s {port}", "a=s {port}"], ["a", "a (2)", "a (3)"]),
      (["a=s {port}", "t {port}"], ["a", "t"]),
    ])
  func namesOfTheUnnamed(arguments: [String], names: [String]) throws {
    let named = ServerCommand.named(try arguments.map { try ServerCommand($0) })
    #expect(named.map(\.name) == names)
  }
}

@Suite struct TurnTests {
  @Test func ordersOfTheFirstRounds() {
    func rounds(_ count: Int, _ rounds: Int) -> [String] {
      (0..<rounds).map { round in
        turns(of: count, round: round).map { ["A", "B", "C", "D"][$0] }.joined()
      }
    }
    #expect(rounds(2, 4) == ["AB", "BA", "BA", "AB"])
    #expect(rounds(3, 6) == ["ABC", "CBA", "BCA", "ACB", "CAB", "BAC"])
  }

  @Test(arguments: 2...6)
  func nobodyIsFavoured(count: Int) {
    let rounds = (0..<count * 2).map { turns(of: count, round: $0) }
    for place in 0..<count {
      let counts = (0..<count).map { who in rounds.count { $0[place] == who } }
      #expect(counts.allSatisfy { $0 == 2 })
    }
    for round in rounds { #expect(round.sorted() == Array(0..<count)) }
  }
}
