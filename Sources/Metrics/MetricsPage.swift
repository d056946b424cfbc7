internal import Synchronization

/// The metrics page: asks every source for its numbers and writes them as one text.
package final class MetricsPage: Sendable {
  /// Adds a part of the program's numbers. Runs on the thread that renders, at every scrape, and
  /// must not wait for the threads that count.
  package typealias Source = @Sendable (inout Exposition) -> Void

  private let sources = Mutex<[Source]>([])

  /// A page without sources.
  package init() {}

  /// Adds a source; the page shows sources in the order in which they were added.
  package func add(_ source: @escaping Source) {
    sources.withLock { $0.append(source) }
  }

  /// The page as it stands now, from any thread.
  package func render(_ format: ExpositionFormat = .text) -> String {
    // Copied first, so that a slow source holds up nobody who adds or renders.
    let sources = sources.withLock { $0 }
    var exposition = Exposition(format: format)
    for source in sources {
      source(&exposition)
    }
    return exposition.text
  }
}
