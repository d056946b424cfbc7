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
  private let routes: RoutedHTTPHandler

  init(
    page: MetricsPage, readiness: @escaping @Sendable () -> Readiness,
    information: [(name: String, value: String)]
  ) {
    var routes = RoutedHTTPHandler()
    routes.appendRoute("GET,HEAD /") { _ in
      let html = FrontPage.html(readiness: readiness(), information: information)
      return Self.response(.ok, html, "text/html; charset=utf-8")
    }
    routes.appendRoute("GET,HEAD /metrics") { _ in
      Self.response(.ok, page.render(), MetricsPage.contentType)
    }
    routes.appendRoute("GET,HEAD /livez") { _ in Self.text(.ok, "ok") }
    routes.appendRoute("GET,HEAD /readyz") { _ in
      let readiness = readiness()
      return readiness == .ready
        ? Self.text(.ok, "ok") : Self.text(.serviceUnavailable, readiness.rawValue)
    }
    self.routes = routes
  }

  /// The answer to any request; never fails.
  func response(to request: HTTPRequest) async -> HTTPResponse {
    guard request.method == .GET || request.method == .HEAD else {
      var response = Self.text(.methodNotAllowed, "only GET and HEAD")
      response.headers[HTTPHeader("Allow")] = "GET, HEAD"
      return response
    }
    do {
      return try await routes.handleRequest(request)
    } catch {
      // Our pages throw nothing, so this is FlyingFox's "no route".
      return Self.text(.notFound, "not found; / lists what there is")
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
