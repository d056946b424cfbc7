import HTTP2
import Testing

@testable import Server

@Suite("Limits of a server with several loops")
struct ServerLimitsTests {
  private static let mebibyte = 1 << 20

  @Test(
    "What the server may keep is shared among its loops",
    arguments: [
      // Of the server, of a loop at least, loops, of each loop.
      (256, 0, 1, 256), (256, 0, 2, 128), (256, 0, 3, 85), (256, 16, 4, 64), (256, 16, 16, 16),
      (256, 16, 17, 16), (256, 16, 128, 16), (8, 16, 1, 8), (8, 16, 4, 8),
    ])
  func buffers(ofServer: Int, ofLoopMin: Int, loops: Int, ofLoop: Int) {
    var limits = Fixture.limits
    limits.http2.bufferedBytesMax = ofServer * Self.mebibyte
    limits.bufferedBytesPerLoopMin = ofLoopMin * Self.mebibyte
    #expect(limits.share(ofLoops: loops).http2.bufferedBytesMax / Self.mebibyte == ofLoop)
  }

  @Test(
    "Evicted connections are shared too, and each loop may keep one",
    arguments: [(64, 1, 64), (64, 2, 32), (64, 3, 21), (64, 128, 1), (0, 4, 1)])
  func evicted(ofServer: Int, loops: Int, ofLoop: Int) {
    var limits = Fixture.limits
    limits.evictedConnectionsMax = ofServer
    #expect(limits.share(ofLoops: loops).evictedConnectionsMax == ofLoop)
  }

  /// Clients that give their streams no window ask for far more than that.
  @Test(
    "What nobody takes is bounded for the server, whatever the number of its loops",
    arguments: 1...4)
  func readersWithoutCredit(loops: Int) throws {
    let most = 8 * Self.mebibyte
    let fixture = try Fixture(loops: loops) {
      $0.http2.bufferedBytesMax = most
      $0.shutdownNanosecondsMax = second / 10
    }
    // A new connection goes to the loop that has the fewest.
    let clients = try (0..<8 * loops).map { _ in
      try Client(port: fixture.server.port, greets: true, window: 0)
    }
    for client in clients {
      for _ in 0..<24 { try client.start("big", [96]) }
    }
    let calls = clients.count * 24
    #expect(fixture.eventually { fixture.board.read { $0.executed[4] } == calls })
    func held() -> Int {
      let rejected = Int(fixture.metric("grpc_server_handled_total", with: "Unavailable"))
      return (calls - rejected) * 96 * 1024
    }
    #expect(fixture.eventually { held() <= most })
    #expect(held() > most / 2)
  }
}
