import Testing

@testable import Server

@Suite("Memory that bursts leave")
struct MemoryTrimmingTests {
  private static let megabyte = 1024 * 1024

  @Test(
    "It is given back once after each burst, and not for small ones",
    arguments: [
      ([0, 0, 0], [false, false, false]),
      ([16, 0], [false, false]),
      ([17, 0, 0], [false, true, false]),
      ([10, 20, 30, 20, 15, 0], [false, false, false, false, false, true]),
      ([100, 60, 50, 49, 25, 0], [false, false, true, false, true, true]),
      ([40, 10, 40, 10], [false, true, false, true]),
    ])
  func bursts(megabytes: [Int], due: [Bool]) {
    var trimming = MemoryTrimming()
    #expect(megabytes.map { trimming.isDue(bufferedBytes: $0 * Self.megabyte) } == due)
  }
}
