import GRPC
import Posix
import Testing

@Suite("Pages")
struct PagingTests {
  private let service = Service()

  /// Follows the page tokens to the end: the texts of field 1 of all entries, page by page.
  private func walk(
    _ method: String, size: Int64, _ filter: (Message) -> Message = { $0 }
  ) throws -> [[String]] {
    var pages: [[String]] = []
    var token = ""
    repeat {
      let page = try service.ok(method, filter(Message().with(1, size).with(2, token)))
      pages.append(page.messages(1).map { $0.text(1) })
      token = page.text(2)
      #expect(token.isEmpty || token.utf8.count == 32)
      try #require(pages.count < 10_000, "the pages have no end")
    } while !token.isEmpty
    return pages
  }

  private func putItems(_ count: Int) throws -> [String] {
    let names = (0..<count).map { "item-\($0)" }
    for name in names { _ = try service.ok("AdjustStock", adjust("put \(name)", name, by: 100)) }
    return names
  }

  @Test(
    "Walking all pages gives every item once, in order",
    arguments: [0, 1, 7, 100, 249, 250, 500, 501, Int64(Int32.max)])
  func items(size: Int64) throws {
    let names = try putItems(250)
    let pages = try walk("ListStock", size: size)
    #expect(pages.flatMap(\.self) == names)
    let most = size == 0 ? 100 : min(Int(size), 500)
    #expect(pages.allSatisfy { $0.count <= most })
    #expect(pages.count == (names.count + most - 1) / most)
  }

  @Test("An empty server has one empty page")
  func empty() throws {
    #expect(try walk("ListStock", size: 10) == [[]])
    #expect(try walk("ListReservations", size: 10) == [[]])
  }

  @Test("Walking all pages gives every reservation once", arguments: [0, 1, 13, 500])
  func reservations(size: Int64) throws {
    _ = try putItems(1)
    var ids: Set<String> = []
    for number in 0..<90 {
      ids.insert(try service.ok("Reserve", reserve("k\(number)", [line("item-0", 1)])).text(1))
    }
    let walked = try walk("ListReservations", size: size).flatMap(\.self)
    #expect(walked.count == ids.count)
    #expect(Set(walked) == ids)
  }

  @Test("A state alone is listed")
  func states() throws {
    _ = try putItems(1)
    let ends = [1: "", 2: "Confirm", 3: "Release", 4: "expire"]
    var expected: [Int: Set<String>] = [:]
    for number in 0..<40 {
      let state = number % 4 + 1
      let ttl = state == 4 ? duration(1) : duration(600)
      let id = try service.ok("Reserve", reserve("k\(number)", [line("item-0", 1)], ttl: ttl))
        .text(1)
      expected[state, default: []].insert(id)
      if let end = ends[state], end != "", end != "expire" { _ = try service.ok(end, of(id)) }
    }
    service.clock.advance(byNanoseconds: 2 * second)
    for (state, ids) in expected {
      let pages = try walk("ListReservations", size: 3) { $0.with(3, Int64(state)) }
      let walked = pages.flatMap(\.self)
      #expect(Set(walked) == ids, "state \(state)")
      #expect(walked.count == ids.count)
      let view = try service.ok("GetReservation", of(try #require(walked.first))).message(1)
      #expect(view?.number(2) == Int64(state))
    }
  }

  @Test("More than the most is taken as the most")
  func mostEntries() throws {
    _ = try putItems(510)
    for size in [500, 501, 1000, Int64(Int32.max)] {
      #expect(try walk("ListStock", size: size).map(\.count) == [500, 10])
    }
  }

  /// Ten items, ten holds, and the tokens behind the first page of every list and filter.
  private func tokens(_ service: Service) throws -> [(String, Int64, String)] {
    for number in 0..<10 {
      _ = try service.ok("AdjustStock", adjust("put \(number)", "item-\(number)", by: 99))
      _ = try service.ok("Reserve", reserve("k\(number)", [line("item-0", 1)], ttl: duration(1)))
    }
    func token(_ method: String, _ state: Int64) throws -> (String, Int64, String) {
      let page = try service.ok(method, Message().with(1, 1 as Int64).with(3, state))
      return (method, state, page.text(2))
    }
    // States CONFIRMED and RELEASED have nobody, and so no second page.
    return try [
      token("ListStock", 0), token("ListReservations", 0), token("ListReservations", 1),
    ]
  }

  @Test("A token goes on where it was made, and nowhere else")
  func foreignTokens() throws {
    let tokens = try tokens(service)
    #expect(Set(tokens.map(\.2)).count == tokens.count)
    for (method, state, token) in tokens {
      #expect(token.utf8.count == 32)
      let next = try service.ok(method, Message().with(2, token).with(3, state))
      #expect(next.messages(1).count == 9)
      // The size of the page is not part of it.
      let sized = Message().with(1, 3 as Int64).with(2, token).with(3, state)
      #expect(try service.ok(method, sized).messages(1).count == 3)
      for (other, otherState, _) in tokens where (other, otherState) != (method, state) {
        try expectNoToken(other, token, state: otherState)
      }
      for otherState in 2...4 as ClosedRange<Int64> {
        try expectNoToken("ListReservations", token, state: otherState)
      }
    }
  }

  @Test("A token of another server is none")
  func otherServers() throws {
    let other = Service(secret: (1, 3))
    for ((method, state, token), (_, _, own)) in zip(try tokens(service), try tokens(other)) {
      #expect(token != own)
      let refused = try other.refused(method, Message().with(2, token).with(3, state))
      #expect(refused.violations.map { $0[0] } == ["page_token"])
      // The same secret, as after a restart: the same token.
      let again = Service()
      _ = try tokens(again)
      #expect(try again.ok(method, Message().with(2, token).with(3, state)).messages(1).count == 9)
    }
  }

  @Test("A token with one digit changed is none")
  func guessedTokens() throws {
    for (method, state, token) in try tokens(service) {
      for index in token.indices {
        var guess = token
        guess.replaceSubrange(index...index, with: token[index] == "0" ? "1" : "0")
        try expectNoToken(method, guess, state: state)
      }
      try expectNoToken(method, String(token.dropLast()), state: state)
      try expectNoToken(method, token + "0", state: state)
      try expectNoToken(method, token.uppercased() + " ", state: state)
    }
  }

  private func expectNoToken(
    _ method: String, _ token: String, state: Int64, location: SourceLocation = #_sourceLocation
  ) throws {
    let refused = try service.refused(method, Message().with(2, token).with(3, state))
    #expect(refused.code == .invalidArgument, sourceLocation: location)
    #expect(refused.reason == "INVALID_FIELD", sourceLocation: location)
    #expect(refused.violations.map { $0[0] } == ["page_token"], sourceLocation: location)
  }
}
