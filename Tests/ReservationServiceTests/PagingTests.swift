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
      #expect(token.isEmpty || token.utf8.count == 16)
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
    "Walking all pages gives every item once, in order", arguments: [0, 1, 7, 100, 249, 250, 500])
  func items(size: Int64) throws {
    let names = try putItems(250)
    let pages = try walk("ListStock", size: size)
    #expect(pages.flatMap(\.self) == names)
    let most = size == 0 ? 100 : Int(size)
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

  @Test(
    "A token from nowhere gives an empty last page",
    arguments: ["ffffffffffffffff", "00000000ffffffff", "0000000100000000", "7fffffffffffffff"],
    ["ListStock", "ListReservations"])
  func farTokens(token: String, method: String) throws {
    _ = try putItems(3)
    _ = try service.ok("Reserve", reserve("k", [line("item-0", 1)]))
    let page = try service.ok(method, Message().with(2, token))
    #expect(page.messages(1).isEmpty)
    #expect(page.text(2) == "")
  }
}
