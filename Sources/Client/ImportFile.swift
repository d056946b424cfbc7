// The file of an import: read once to see that it is well and what it is, and once more to send it.
internal import Access
internal import Posix

/// How a file is read.
package struct ImportOptions: Sendable, Equatable {
  package var separator = UInt8(ascii: ",")
  package var ignoredColumns: [String] = []
  /// Rows with mistakes are rejected, and the others imported; else nothing is.
  package var skipsMistakes = false

  package init() {}

  /// What the numbers of rows depend on, besides the file.
  fileprivate var text: String {
    "\(separator) \(skipsMistakes) \(ignoredColumns.map { $0.lowercased() }.sorted())"
  }
}

/// Why a file cannot be imported.
package enum ImportFileError: Error, Equatable {
  case unreadable(String)
  case mistakes([CSVMistake], count: Int)
}

/// What the first look at a file has found.
package struct ImportSummary: Equatable, Sendable {
  package var rows: UInt64 = 0
  /// The first of them; of a file whose rows with mistakes are skipped too.
  package var mistakes: [CSVMistake] = []
  package var mistakeCount = 0
  package var setsWithoutCheck = false
  /// 16 hexadecimal digits that stand for the file and how it is read.
  package var digest = ""
}

/// A file of rows, which is read twice.
package final class ImportFile {
  /// Mistakes that are shown.
  private static let mistakesMax = 20
  fileprivate static let chunkBytes = 256 << 10

  package let path: String
  fileprivate let options: ImportOptions
  private let file: File
  private let status: FileStatus

  /// - Throws: where it cannot be read, or is no regular file.
  package init(path: String, options: ImportOptions) throws(ImportFileError) {
    self.path = path
    self.options = options
    let parts = path.split(separator: "/", omittingEmptySubsequences: false)
    let parent = parts.dropLast().joined(separator: "/")
    do throws(Errno) {
      let folder = try Directory(path: parts.count == 1 ? "." : parent.isEmpty ? "/" : parent)
      file = try folder.file(String(parts[parts.count - 1]), for: .reading)
      status = try file.status()
      guard status.isRegular else { throw .notRegular }
    } catch {
      throw .unreadable("\(path): \(error)")
    }
  }

  /// Reads the whole file.
  /// - Throws: its mistakes, unless rows with mistakes are skipped.
  package func check() throws(ImportFileError) -> ImportSummary {
    var summary = ImportSummary()
    let digest = RunningDigest(options.text)
    var rows = try ImportRows(self, digest)
    summary.setsWithoutCheck = rows.header.setsWithoutCheck
    while let row = try rows.next() {
      switch row.content {
      case .success: summary.rows += 1
      case .failure(let mistake):
        summary.mistakeCount += 1
        if summary.mistakes.count < Self.mistakesMax { summary.mistakes.append(mistake) }
      }
    }
    summary.digest = String(digest.hexadecimal.prefix(16))
    if summary.mistakeCount > 0, !options.skipsMistakes {
      throw .mistakes(summary.mistakes, count: summary.mistakeCount)
    }
    return summary
  }

  fileprivate func read(at offset: Int) throws(CSVMistake) -> [UInt8] {
    var bytes = [UInt8](repeating: 0, count: Self.chunkBytes)
    var hasChanged = false
    let result = unsafe bytes.withUnsafeMutableBytes { room -> Result<Int, Errno> in
      do throws(Errno) {
        hasChanged = try file.status() != status
        return .success(unsafe try file.read(into: room, at: offset))
      } catch { return .failure(error) }
    }
    switch result {
    case .success(let count) where !hasChanged:
      bytes.removeLast(bytes.count - count)
      return bytes
    case .success:
      throw CSVMistake(line: 1, column: 1, "the file changes while it is read")
    case .failure(let error): throw CSVMistake(line: 1, column: 1, "\(error)")
    }
  }
}

/// A record of an import's file, and what it asks for.
package struct ImportRow {
  package let record: CSVRecord
  package let content: Result<Adjustment, CSVMistake>
}

/// The rows of a file, in their order.
package struct ImportRows: ~Copyable {
  package let header: ImportHeader
  private var reader: CSVReader
  private let path: String

  /// - Parameter digest: gets every byte of the file, as far as it is read.
  package init(_ file: ImportFile, _ digest: RunningDigest? = nil) throws(ImportFileError) {
    path = file.path
    var offset = 0
    reader = CSVReader(separator: file.options.separator) { () throws(CSVMistake) -> [UInt8] in
      let bytes = try file.read(at: offset)
      offset += bytes.count
      digest?.add(bytes)
      return bytes
    }
    do throws(CSVMistake) {
      guard let first = try reader.next() else {
        throw CSVMistake(line: 1, column: 1, "the file is empty: its first line names the columns")
      }
      header = try ImportHeader(first, ignored: file.options.ignoredColumns)
    } catch {
      throw .mistakes([error], count: 1)
    }
  }

  /// nil at the end.
  package mutating func next() throws(ImportFileError) -> ImportRow? {
    do throws(CSVMistake) {
      guard let record = try reader.next() else { return nil }
      do throws(CSVMistake) {
        return ImportRow(record: record, content: .success(try header.row(record)))
      } catch {
        return ImportRow(record: record, content: .failure(error))
      }
    } catch {
      throw .mistakes([error], count: 1)
    }
  }
}

/// A hash of what is added, piece by piece: each of the pieces is hashed with what came before it. Pieces of a file are
/// always cut at the same places.
package final class RunningDigest {
  private var state: [UInt8]

  package init(_ seed: String) { state = Array(seed.utf8) }

  package func add(_ bytes: [UInt8]) {
    if bytes.isEmpty { return }
    let joined = state + bytes
    state = Array(Digest(of: joined.span).hexadecimal.utf8)
  }

  /// Of everything that was added.
  package var hexadecimal: String {
    let bytes = state
    return Digest(of: bytes.span).hexadecimal
  }
}
