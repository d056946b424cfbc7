internal import FlyingFox
internal import Foundation
internal import Metrics

/// Whether calls should be sent to this server.
package enum Readiness: String, Sendable {
  /// Not yet.
  case starting
  /// Not yet: it reads what an earlier run has left.
  case recovering
  /// Yes.
  case ready
  /// No longer: it finishes the calls that it has.
  case draining
}

/// What operators and their tools ask a server: `/metrics` for Prometheus, `/livez` and `/readyz`
/// for an orchestrator, and `/` for a person.
struct AdminPages: Sendable {
  private let page: MetricsPage
  private let readiness: @Sendable () -> Readiness
  private let information: [(name: String, value: String)]

  init(
    page: MetricsPage, readiness: @escaping @Sendable () -> Readiness,
    information: [(name: String, value: String)]
  ) {
    self.page = page
    self.readiness = readiness
    self.information = information
  }

  /// The answer to any request; never fails.
  func response(to request: HTTPRequest) -> HTTPResponse {
    guard request.method == .GET || request.method == .HEAD else {
      var response = Self.text(.methodNotAllowed, "only GET and HEAD")
      response.headers[HTTPHeader("Allow")] = "GET, HEAD"
      return response
    }
    // Paths are compared as they are: FlyingFox's routes take //metrics for /metrics.
    switch request.target.path() {
    case "/":
      let html = FrontPage.html(readiness: readiness(), information: information)
      return Self.response(.ok, html, "text/html; charset=utf-8")
    case "/metrics": return Self.response(.ok, page.render(), MetricsPage.contentType)
    case "/livez": return Self.text(.ok, "ok")
    case "/readyz":
      let readiness = readiness()
      return readiness == .ready
        ? Self.text(.ok, "ok") : Self.text(.serviceUnavailable, readiness.rawValue)
    default: return Self.text(.notFound, "not found; / lists what there is")
    }
  }

  /// A line of plain text.
  static func text(_ status: HTTPStatusCode, _ line: String) -> HTTPResponse {
    response(status, line + "\n", "text/plain; charset=utf-8")
  }

  private static func response(
    _ status: HTTPStatusCode, _ body: String, _ contentType: String
  ) -> HTTPResponse {
    HTTPResponse(
      statusCode: status,
      headers: [
        .contentType: contentType,
        .cacheControl: "no-store",
        HTTPHeader("Content-Security-Policy"): "default-src 'none'; style-src 'unsafe-inline'",
        HTTPHeader("X-Content-Type-Options"): "nosniff",
      ],
      body: Data(body.utf8))
  }
}
