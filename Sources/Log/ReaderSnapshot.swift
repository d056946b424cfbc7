// A directory for reading beside the server that owns it. It holds the files open that it began with: so a
// checkpoint that is removed meanwhile and a segment that is given up can still be read. The owner does not use
// a segment again while somebody has it (SegmentPool.recycle): it makes another, and never waits. Segments that
// come later are read as long as they are there: a reader that the owner leaves behind has come to its end, which
// is no damage (hasGoneOn).
package import Posix
internal import Synchronization

package final class ReaderSnapshot: Storage {
  private let storage: any Storage
  private let listed: [String]
  private let held: [String: any StorageFile]
  private let fault: LogFault?

  private static let attemptsMax = 100

  /// - Parameter isNeeded: by its name, whether a file is to be held.
  package init(
    of storage: any Storage, fault: LogFault? = nil, isNeeded: (String) -> Bool
  ) throws(JournalError) {
    self.storage = storage
    self.fault = fault
    var attempt = 1
    while true {
      let names = try Self.names(storage)
      let held = try Self.open(names.filter(isNeeded), storage)
      // What was there before and after was there all the time. What is still missing at last is for whoever
      // reads to find.
      let after = Set(try Self.names(storage))
      let isWhole = held.count == names.count(where: isNeeded) && after.isSuperset(of: held.keys)
      if isWhole || attempt == Self.attemptsMax {
        self.held = fault == .backupUnheld ? [:] : held
        listed = names
        return
      }
      attempt += 1
    }
  }

  /// Those of the files that are there and not just being used again.
  private static func open(
    _ names: [String], _ storage: any Storage
  ) throws(JournalError) -> [String: any StorageFile] {
    var held: [String: any StorageFile] = [:]
    for name in names {
      do throws(Errno) {
        held[name] = try storage.open(name)
      } catch {
        guard error == .noSuchFile || error == .tryAgain else {
          throw .failed(operation: "open", file: name, error)
        }
      }
    }
    return held
  }

  private static func names(_ storage: any Storage) throws(JournalError) -> [String] {
    try JournalError.attempt("list", "the directory") { () throws(Errno) in try storage.names() }
  }

  package func names() throws(Errno) -> [String] { listed }

  package func open(_ name: String) throws(Errno) -> any StorageFile {
    if let file = held[name] { return file }
    return try storage.open(name)
  }

  /// The newest segment that was there is followed by others, or there would be none behind the missing one now.
  package func hasGoneOn(past sequence: UInt64) throws(Errno) -> Bool {
    let newest = listed.compactMap(FileNames.segmentSequence).max() ?? 0
    guard sequence > newest, fault != .backupLeftBehind else { return false }
    return try storage.names().compactMap(FileNames.segmentSequence).contains { $0 > sequence }
  }

  package func create(_ name: String) throws(Errno) -> any StorageFile { throw .readOnly }
  package func rename(_ name: String, to newName: String) throws(Errno) { throw .readOnly }
  package func remove(_ name: String) throws(Errno) { throw .readOnly }
  package func syncDirectory() throws(Errno) { throw .readOnly }
}
