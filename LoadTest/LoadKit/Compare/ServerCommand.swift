// The commands that a comparison starts servers with.

/// How one server is started, as --server takes it: `NAME=COMMAND` or `COMMAND`.
package struct ServerCommand: Equatable, Sendable {
  /// What it is called in the comparison; nil if it was not given one.
  package var name: String?
  /// As it was given, without its name.
  package let command: String
  /// The words of the command, `{port}` and the like still in them.
  package let words: [String]

  /// - Parameter argument: the name is letters, digits, dots, dashes and underscores.
  package init(_ argument: String) throws(LoadError) {
    let name = argument.prefix { $0.isASCII && ($0.isLetter || $0.isNumber || "._-".contains($0)) }
    let rest = argument.dropFirst(name.count)
    if rest.first == "=", !name.isEmpty {
      self.name = String(name)
      command = String(rest.dropFirst())
    } else {
      self.name = nil
      command = argument
    }
    words = try ServerCommand.split(command)
    if words.isEmpty { throw LoadError("--server '\(argument)' names no program") }
    guard words.contains(where: { $0.contains("{port}") }) else {
      throw LoadError("--server '\(command)' must say where the port goes: {port}")
    }
  }

  /// The command line with `values` put in: `{port}` becomes `values["port"]`. Other braces stay.
  package func arguments(_ values: [String: String]) -> [String] {
    words.map { word in
      var result = ""
      var rest = word[...]
      while let opening = rest.firstIndex(of: "{") {
        result += rest[..<opening]
        rest = rest[opening...]
        if let closing = rest.firstIndex(of: "}"),
          let value = values[String(rest[rest.index(after: opening)..<closing])]
        {
          result += value
          rest = rest[rest.index(after: closing)...]
        } else {
          result += rest.removeFirst().description
        }
      }
      return result + rest
    }
  }

  package func uses(_ placeholder: String) -> Bool {
    words.contains { $0.contains("{\(placeholder)}") }
  }

  // MARK: Words

  /// Splits a command line into words, as a shell does as far as quotes go: blanks part words; between
  /// single quotes everything stands for itself; between double quotes `\` takes the meaning from `"`
  /// and `\`; outside, from any character. Nothing else has a meaning: no variables, no patterns, no
  /// pipes. `sh -c '…'` has them.
  package static func split(_ command: String) throws(LoadError) -> [String] {
    var words: [String] = []
    /// The word that is being read; nil between words.
    var word: String?
    var quote: Character?
    var characters = command.makeIterator()
    while let character = characters.next() {
      switch (quote, character) {
      case (nil, " "), (nil, "\t"), (nil, "\n"):
        if let whole = word { words.append(whole) }
        word = nil
      case (nil, "'"), (nil, "\""):
        quote = character
        word = word ?? ""
      case ("'", "'"), ("\"", "\""): quote = nil
      case (nil, "\\"), ("\"", "\\"):
        guard let next = characters.next() else {
          throw LoadError("a command ends with a backslash: \(command)")
        }
        let isKept = quote != nil && next != "\"" && next != "\\"
        word = (word ?? "") + (isKept ? "\\" : "") + String(next)
      default: word = (word ?? "") + String(character)
      }
    }
    if let quote { throw LoadError("a command lacks a closing \(quote): \(command)") }
    if let whole = word { words.append(whole) }
    return words
  }

  // MARK: Names

  /// Names those that have none by the words that no other has ("--loops 2"), or by their program, and
  /// numbers those that would be called alike.
  package static func named(_ commands: [ServerCommand]) -> [(name: String, command: ServerCommand)]
  {
    var taken: Set<String> = []
    return commands.enumerated().map { index, command in
      let others = commands.enumerated().filter { $0.offset != index }.map { Set($0.element.words) }
      let own = command.words.filter { word in !others.contains { $0.contains(word) } }
      let program = command.words[0].split(separator: "/").last.map(String.init) ?? "server"
      let telling = own.isEmpty ? program : own.joined(separator: " ")
      let name = command.name ?? String(telling.prefix(32))
      var unique = name
      var number = 2
      while !taken.insert(unique).inserted {
        unique = "\(name) (\(number))"
        number += 1
      }
      return (unique, command)
    }
  }
}
