// Metadata from the command line.
package import GRPC

package enum Metadata {
  /// - Parameter text: NAME=VALUE.
  package static func parse(_ text: String) throws(LoadError) -> ClientMetadata {
    do {
      return try ClientMetadata(parsing: text)
    } catch {
      throw LoadError("\(error)")
    }
  }

  /// The values of `--metadata`, each NAME=VALUE. A flag's own transform must not do this: where it fails,
  /// the argument parser repeats the value.
  package static func parse(all texts: [String]) throws(LoadError) -> [ClientMetadata] {
    var metadata: [ClientMetadata] = []
    for (index, text) in texts.enumerated() {
      do {
        metadata.append(try parse(text))
      } catch {
        throw LoadError("--metadata (\(index + 1) of \(texts.count)): \(error)")
      }
    }
    try check(metadata)
    return metadata
  }

  /// Throws where there is too much of it for one header block.
  package static func check(_ metadata: [ClientMetadata]) throws(LoadError) {
    let bytes = metadata.reduce(0) { $0 + $1.name.utf8.count + $1.value.utf8.count + 8 }
    guard bytes <= ClientCalls.metadataBytesMax else {
      throw LoadError("--metadata: more than \(ClientCalls.metadataBytesMax) bytes")
    }
  }

  /// The words of a command line, without the values of `--metadata`.
  package static func hidingValues(_ arguments: [String]) -> [String] {
    var isValue = false
    return arguments.map { argument in
      let flag = "--metadata="
      if argument.hasPrefix(flag) {
        return flag + hidden(argument.dropFirst(flag.count))
      }
      defer { isValue = argument == "--metadata" }
      return isValue ? hidden(Substring(argument)) : argument
    }
  }

  private static func hidden(_ text: Substring) -> String {
    // Without a name, all of it may be a secret.
    let name = text.prefix { $0 != "=" }
    return name.count < text.count && ClientMetadata.isName(name) ? "\(name)=..." : "..."
  }
}
