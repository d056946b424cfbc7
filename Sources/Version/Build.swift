// What a program says that it is: `--version`, the log, the metrics, the user agent.
internal import CVersion

package enum Build {
  /// The number of the release, such as `0.1.0`.
  package static let version = HF_VERSION

  #if DEBUG
    package static let configuration = "debug"
  #else
    package static let configuration = "release"
  #endif

  /// Twelve digits of the commit, with `-dirty` behind them where the sources were not as committed; nil where it is not
  /// known. A debug build does not say: nobody renews its stamp.
  package static let commit: String? =
    configuration == "debug" ? nil : shortened(unsafe String(cString: hf_version_commit()))

  /// `0.1.0 (commit 0123456789ab)`.
  package static let text = text(version: version, configuration: configuration, commit: commit)

  static func shortened(_ commit: String) -> String? {
    let digits = commit.prefix { $0.isHexDigit }
    guard digits.count >= 12 else { return nil }
    return digits.prefix(12) + (commit.hasSuffix("-dirty") ? "-dirty" : "")
  }

  static func text(version: String, configuration: String, commit: String?) -> String {
    if configuration == "debug" { return "\(version) (debug build)" }
    return "\(version) (commit \(commit ?? "unknown"))"
  }
}
