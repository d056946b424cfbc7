import Admin
import Foundation
import Metrics
import Testing

@Suite("Admin pages over real sockets")
struct AdminPagesTests {
  @Test(
    "Each path answers with its status, type and body",
    arguments: [
      (
        "GET /metrics", "200 OK", "text/plain; version=0.0.4; charset=utf-8",
        "\nholdfast_x_total 7\n"
      ),
      ("GET /metrics?a=b", "200 OK", "version=0.0.4", "\nholdfast_x_total 7\n"),
      ("GET /livez", "200 OK", "text/plain", "\r\n\r\nok\n"),
      ("GET /readyz", "200 OK", "text/plain", "\r\n\r\nok\n"),
      ("GET /", "200 OK", "text/html; charset=utf-8", "<a href=\"/metrics\">"),
      ("GET /nothing", "404 Not Found", "text/plain", "not found"),
      ("GET /metrics/deeper", "404 Not Found", "text/plain", "not found"),
      ("GET //metrics", "404 Not Found", "text/plain", "not found"),
      ("GET /metrics/", "404 Not Found", "text/plain", "not found"),
      ("GET /metrics//", "404 Not Found", "text/plain", "not found"),
      ("GET //", "404 Not Found", "text/plain", "not found"),
      ("GET /./metrics", "404 Not Found", "text/plain", "not found"),
      ("GET http://host:7421/metrics", "200 OK", "version=0.0.4", "\nholdfast_x_total 7\n"),
      ("GET HTTP://[::1]:7421/metrics?a", "200 OK", "version=0.0.4", "\nholdfast_x_total 7\n"),
      ("GET https://host/livez", "200 OK", "text/plain", "\r\n\r\nok\n"),
      ("GET http://host", "200 OK", "text/html; charset=utf-8", "<a href=\"/metrics\">"),
      ("GET http://host?a=/metrics", "200 OK", "text/html", "<a href=\"/metrics\">"),
      ("GET http://host//metrics", "404 Not Found", "text/plain", "not found"),
      ("GET http:///metrics", "400 Bad Request", "text/plain", "bad request"),
      ("GET http://", "400 Bad Request", "text/plain", "bad request"),
      ("GET ftp://host/metrics", "400 Bad Request", "text/plain", "bad request"),
      ("GET metrics", "400 Bad Request", "text/plain", "bad request"),
      ("GET /%zz%00%ff", "404 Not Found", "text/plain", "not found"),
      ("GET /..%2f..%2fetc/passwd", "404 Not Found", "text/plain", "not found"),
      ("POST /metrics", "405 Method Not Allowed", "text/plain", "\r\nAllow: GET, HEAD\r\n"),
      ("DELETE /", "405 Method Not Allowed", "text/plain", "only GET and HEAD"),
      ("PUT /nothing", "405 Method Not Allowed", "text/plain", "only GET and HEAD"),
      ("BREW /coffee", "405 Method Not Allowed", "text/plain", "only GET and HEAD"),
    ])
  func routes(request: String, status: String, type: String, body: String) async throws {
    let page = MetricsPage()
    page.add { $0.counter("holdfast_x_total", help: "x", value: 7) }
    try await withAdminServer(page: page) { port in
      let answer = await onThread {
        RawClient.answer(port: port, request)
      }
      let text = try #require(answer)
      #expect(text.hasPrefix("HTTP/1.1 \(status)\r\n"))
      #expect(text.contains("Content-Type: \(type)") || text.contains(type))
      #expect(text.contains(body))
      #expect(text.contains("\r\nConnection: close\r\n"))
    }
  }

  @Test(
    "Metrics are in the format that Accept asks for, be it one field or several",
    arguments: [
      ([], false), (["text/plain"], false), (["application/openmetrics-text"], true),
      (["text/html", "application/openmetrics-text; version=1.0.0"], true),
      (["application/openmetrics-text;q=0.5", "text/plain"], false),
      (["", ";;q=,\t,", String(repeating: "a/b;q=0.1,", count: 500)], false),
    ] as [([String], Bool)])
  func negotiation(accept: [String], isOpenMetrics: Bool) async throws {
    let page = MetricsPage()
    page.add { $0.counter("holdfast_x_total", help: "x", value: 7) }
    try await withAdminServer(page: page) { port in
      let fields = accept.map { "Accept: \($0)\r\n" }.joined()
      let answer = await onThread {
        RawClient.exchange(port: port, "GET /metrics HTTP/1.0\r\n\(fields)\r\n")
      }
      let text = try #require(answer)
      #expect(text.hasPrefix("HTTP/1.1 200 OK\r\n"))
      #expect(text.contains("\r\nVary: Accept\r\n"))
      let type =
        isOpenMetrics ? "application/openmetrics-text; version=1.0.0" : "text/plain; version=0.0.4"
      #expect(text.contains("\r\nContent-Type: \(type); charset=utf-8\r\n"))
      #expect(text.hasSuffix("\nholdfast_x_total 7\n" + (isOpenMetrics ? "# EOF\n" : "")))
    }
  }

  @Test(
    "HEAD answers as GET does, without the body", arguments: ["/", "/metrics", "/livez", "/no"])
  func head(path: String) async throws {
    try await withAdminServer { port in
      let (get, head) = await onThread {
        (
          RawClient.answer(port: port, "GET \(path)"),
          RawClient.answer(port: port, "HEAD \(path)")
        )
      }
      let end = try #require(get?.range(of: "\r\n\r\n")).upperBound
      #expect(head == get.map { String($0[..<end]) })
    }
  }

  @Test(
    "Readiness is what the server says at the moment",
    arguments: [
      (ServingState.starting, "503 Service Unavailable", "starting\n"), (.ready, "200 OK", "ok\n"),
      (.draining, "503 Service Unavailable", "draining\n"),
    ])
  func readiness(readiness: ServingState, status: String, body: String) async throws {
    try await withAdminServer(readiness: readiness) { port in
      let answer = await onThread { RawClient.exchange(port: port, "GET /readyz HTTP/1.0\r\n\r\n") }
      let text = try #require(answer)
      #expect(text.hasPrefix("HTTP/1.1 \(status)\r\n"))
      #expect(text.hasSuffix("\r\n\r\n\(body)"))
    }
  }

  @Test("The front page shows information as text, never as markup")
  func frontPage() async throws {
    let information = [(name: "Build <b>", value: "1.0 & \"<script>\"")]
    try await withAdminServer(readiness: .draining, information: information) { port in
      let answer = await onThread { RawClient.answer(port: port, "GET /") }
      let text = try #require(answer)
      #expect(text.contains("<td>draining</td>"))
      #expect(text.contains("Build &lt;b&gt;</th><td>1.0 &amp; &quot;&lt;script&gt;&quot;</td>"))
    }
  }

  @Test(
    "promtool finds nothing to complain about in a whole page",
    .enabled(
      if: FileManager.default.isExecutableFile(atPath: "/usr/bin/promtool"),
      "promtool is missing: install Debian's package prometheus"))
  func promtool() async throws {
    let metrics = RPCMetrics(
      methods: [RPCMethod(service: "s", method: "m", type: .unary)], nowNanoseconds: { 0 })
    metrics.makeRecorder().handled(method: 0, code: 0, latencyNanoseconds: 1)
    let page = MetricsPage()
    page.add { metrics.expose(into: &$0) }
    try await withAdminServer(page: page) { port in
      let answer = await onThread {
        RawClient.answer(port: port, "GET /metrics")
      }
      let text = try #require(answer)
      let body = text[try #require(text.range(of: "\r\n\r\n")).upperBound...]
      let file = FileManager.default.temporaryDirectory.appending(path: "\(UUID()).prom")
      try Data(body.utf8).write(to: file)
      defer { try? FileManager.default.removeItem(at: file) }
      let status = try await onThread {
        Result {
          let process = Process()
          process.executableURL = URL(filePath: "/usr/bin/promtool")
          process.arguments = ["check", "metrics"]
          process.standardInput = try FileHandle(forReadingFrom: file)
          try process.run()
          process.waitUntilExit()
          return process.terminationStatus
        }
      }.get()
      #expect(status == 0)
    }
  }
}
