// Answers GET /metrics while a run goes on (--metrics-port), on a thread of its own: a scraper that is
// slow or hostile costs the run nothing.
internal import Posix
internal import Synchronization

package final class MetricsServer: Sendable {
  /// Where it listens; the kernel's choice where 0 was asked for.
  package let port: UInt16
  private let listener: Int32
  private let page = Mutex<[UInt8]>([])
  private let isStopping = Atomic<Bool>(false)
  private let thread = Mutex<Thread?>(nil)

  private static let requestMaximum = 8_192
  /// Longer a peer may not take for its request, nor for the answer.
  private static let patienceNanoseconds: Int64 = 2_000_000_000

  /// Listens, and begins to answer.
  ///
  /// - Parameters:
  ///   - host: an IP address.
  ///   - port: 0: the kernel chooses.
  /// - Throws: where it cannot listen there.
  package init(host: String, port: UInt16) throws(LoadError) {
    do throws(Errno) {
      try Socket.checkUnused(host: host, port: port)
      let socket = try Socket.listen(host: host, port: port, backlog: 16)
      self.port = try Socket.localPort(socket.number)
      listener = socket.take()
    } catch {
      throw LoadError("cannot listen on \(host):\(port) (--metrics-port): \(error)")
    }
    do throws(Errno) {
      let started = try Thread(name: "load-metrics") { [self] in serve() }
      thread.withLock { $0 = started }
    } catch {
      throw LoadError("cannot start a thread: \(error)")
    }
  }

  /// What is answered from now on: OpenMetrics text.
  package func publish(_ text: String) {
    let bytes = Array(text.utf8)
    page.withLock { $0 = bytes }
  }

  /// Ends the thread, and closes the port.
  package func stop() {
    isStopping.store(true, ordering: .releasing)
    thread.withLock { $0.take() }?.join()
  }

  private func serve() {
    defer { FileDescriptor.close(number: listener) }
    guard let poller = try? Poller(), (try? poller.add(listener, token: 0)) != nil else { return }
    while !isStopping.load(ordering: .acquiring) {
      guard (try? poller.wait(timeoutMilliseconds: 100)) ?? 0 > 0 else { continue }
      guard case .connection(let number) = Socket.accept(listener) else {
        sleep(milliseconds: 1)
        continue
      }
      answer(FileDescriptor(owning: number))
    }
  }

  private func answer(_ peer: consuming FileDescriptor) {
    guard let poller = try? Poller(), (try? poller.add(peer.number, token: 0)) != nil else {
      return
    }
    let deadline = SystemClock.monotonicNanoseconds() + MetricsServer.patienceNanoseconds
    var request: [UInt8] = []
    var part = [UInt8](repeating: 0, count: 1_024)
    while !MetricsServer.hasHead(request), request.count < MetricsServer.requestMaximum {
      guard SystemClock.monotonicNanoseconds() < deadline,
        !isStopping.load(ordering: .acquiring)
      else { return }
      guard (try? poller.wait(timeoutMilliseconds: 50)) ?? 0 > 0 else { continue }
      // The array is ours for the length of the call.
      let result = unsafe part.withUnsafeMutableBytes {
        unsafe FileDescriptor.read(peer.number, into: $0)
      }
      switch result {
      case .moved(0), .failed: return
      case .moved(let count): request += part[..<count]
      case .wouldBlock: continue
      }
    }
    let response = MetricsServer.response(to: request, page: page.withLock { $0 })
    _ = FileDescriptor.write(peer.number, response, patienceMilliseconds: 1_000)
    Socket.endSending(peer.number)
  }

  private static func hasHead(_ bytes: [UInt8]) -> Bool {
    bytes.count >= 4
      && bytes.indices.dropLast(3).contains { bytes[$0...].starts(with: "\r\n\r\n".utf8) }
      || bytes.count >= 2
        && bytes.indices.dropLast().contains { bytes[$0...].starts(with: "\n\n".utf8) }
  }

  static func response(to request: [UInt8], page: [UInt8]) -> [UInt8] {
    let line = String(decoding: request.prefix { $0 != 0x0d && $0 != 0x0a }, as: UTF8.self)
    let words = line.split(separator: " ")
    let path = words.count > 1 ? words[1].prefix { $0 != "?" } : ""
    let isRequest = words.count == 3 && words[2].hasPrefix("HTTP/1.")
    let (status, type, body): (String, String, [UInt8]) =
      if !hasHead(request) || !isRequest {
        ("400 Bad Request", "text/plain", Array("this is /metrics of a load run\n".utf8))
      } else if words[0] != "GET" && words[0] != "HEAD" {
        ("405 Method Not Allowed", "text/plain", Array("GET /metrics\n".utf8))
      } else if path != "/metrics" {
        ("404 Not Found", "text/plain", Array("there is /metrics alone\n".utf8))
      } else {
        ("200 OK", "application/openmetrics-text; version=1.0.0; charset=utf-8", page)
      }
    let head =
      "HTTP/1.1 \(status)\r\nContent-Type: \(type)\r\nContent-Length: \(body.count)\r\n"
      + "Connection: close\r\n\r\n"
    return Array(head.utf8) + (words.first == "HEAD" ? [] : body)
  }
}
