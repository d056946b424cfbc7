import Testing

@testable import Version

struct BuildTests {
  @Test(
    arguments: [
      ("0123456789abcdef0123456789abcdef01234567", "0123456789ab"),
      ("0123456789abcdef0123456789abcdef01234567-dirty", "0123456789ab-dirty"),
      ("", nil), ("$Format:%H$", nil), ("0123", nil),
    ] as [(String, String?)])
  func shortensACommit(commit: String, expected: String?) {
    #expect(Build.shortened(commit) == expected)
  }

  @Test(
    arguments: [
      ("release", "0123456789ab", "1.2.3 (commit 0123456789ab)"),
      ("release", nil, "1.2.3 (commit unknown)"),
      ("debug", nil, "1.2.3 (debug build)"),
    ] as [(String, String?, String)])
  func saysWhatItIs(configuration: String, commit: String?, expected: String) {
    #expect(
      Build.text(version: "1.2.3", configuration: configuration, commit: commit) == expected)
  }
}
