// Secrets that the service manager hands to a service as files.
internal import Glibc
internal import Posix

enum ServiceCredential {
  /// The file that the service manager has put down under a name, in CREDENTIALS_DIRECTORY (LoadCredential= of
  /// systemd.exec(5); /run/secrets of a container). It is called so: as it is, or behind `holdfast_`, as the files of a
  /// whole folder are (LoadCredential=holdfast:/etc/holdfast/credentials), or behind `holdfast.`, as credentials of the
  /// machine are.
  static func file(_ name: String) -> (name: String, path: String)? {
    guard let folder = Machine.environment("CREDENTIALS_DIRECTORY"), !folder.isEmpty else {
      return nil
    }
    return ["", "holdfast_", "holdfast."].lazy.map { ($0 + name, "\(folder)/\($0)\(name)") }
      .first { isThere($0.1) }
  }

  /// Whether there is such a name, a link that leads nowhere too. What cannot be looked at counts: without its tokens a
  /// server would be open to everybody, so it is to fail at reading them, and to say why.
  private static func isThere(_ path: String) -> Bool {
    var status = stat()
    if unsafe lstat(path, &status) == 0 { return true }
    return errno != ENOENT && errno != ENOTDIR
  }
}
