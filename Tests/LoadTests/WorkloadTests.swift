import LoadHistory
import Testing

@testable import LoadKit

@Suite struct WorkloadTests {
  @Test func zipfDrawsByWeight() {
    let table = AliasTable(zipf: 1, count: 4)
    var random = Random(seed: 1)
    var counts = [0, 0, 0, 0]
    for _ in 0..<100_000 { counts[table.draw(&random)] += 1 }
    // Weights 12 : 6 : 4 : 3, of 25.
    for (count, share) in zip(counts, [0.48, 0.24, 0.16, 0.12]) {
      #expect(abs(Double(count) / 100_000 - share) < 0.01)
    }
  }

  @Test func sameSeedSameDraws() {
    var workload = Workload()
    workload.skuCount = 1_000
    workload.hotShare = 0.5
    workload.quantity = 1...9
    func draws() -> [CartLine] {
      var draws = Draws(workload, weights: nil, seed: 99)
      return (0..<100).map { _ in draws.line() }
    }
    #expect(draws() == draws())
    let lines = draws()
    #expect((30...70).contains(lines.count { $0.sku == 0 }))
    #expect(lines.allSatisfy { $0.sku < 1_000 && (1...9).contains($0.quantity) })
  }

  @Test func endingsFollowTheirShares() {
    var workload = Workload()
    workload.confirmShare = 0.5
    workload.releaseShare = 0.3
    var draws = Draws(workload, weights: nil, seed: 1)
    var counts: [Ending: Int] = [:]
    for _ in 0..<10_000 { counts[draws.ending(), default: 0] += 1 }
    #expect(abs(counts[.confirm, default: 0] - 5_000) < 200)
    #expect(abs(counts[.release, default: 0] - 3_000) < 200)
    #expect(abs(counts[.none, default: 0] - 2_000) < 200)
  }

  @Test(arguments: ["single", "uniform", "zipf:0.99"])
  func distributionsReadWhatTheySay(text: String) {
    #expect(Distribution(text)?.description == text)
  }

  @Test(arguments: ["", "zipf", "zipf:", "zipf:-1", "zipf:nan", "Uniform"])
  func distributionsThatAreNone(text: String) { #expect(Distribution(text) == nil) }
}
