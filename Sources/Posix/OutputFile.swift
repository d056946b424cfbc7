internal import CPlatform

#if canImport(Glibc)
  internal import Glibc
#else
  internal import Darwin
#endif

/// A file that is written from front to end: on disk, a pipe or a device.
package struct OutputFile: ~Copyable, Sendable {
  private let descriptor: FileDescriptor

  /// Opens the file, or makes it. What is in it stays until `empty`.
  package init(path: String) throws(Errno) {
    descriptor = FileDescriptor(
      owning: try retrying { unsafe open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0o666) })
  }

  /// Makes a file for its owner alone (0600), where there is nothing of that name.
  package init(newPath path: String) throws(Errno) {
    descriptor = FileDescriptor(
      owning: try retrying {
        unsafe hf_open_at(AT_FDCWD, path, O_WRONLY | O_CREAT | O_EXCL)
      })
  }

  /// Goes on behind what the file has.
  package init(appendingTo path: String) throws(Errno) {
    descriptor = FileDescriptor(
      owning: try retrying { unsafe hf_open_at(AT_FDCWD, path, O_WRONLY | O_APPEND) })
  }

  /// Makes what was written outlive a power cut (fsync(2)).
  package func sync() throws(Errno) {
    if fsync(descriptor.number) != 0 { throw .current }
  }

  /// A second descriptor for what another has open: 1 is standard output.
  package init(duplicating number: Int32) throws(Errno) {
    descriptor = FileDescriptor(owning: try retrying { dup(number) })
  }

  /// Takes away what the file held; a pipe or a device holds nothing.
  package func empty() throws(Errno) {
    let number = descriptor.number
    do {
      _ = try retrying { ftruncate(number, 0) }
    } catch  where error == .invalid {
    }
  }

  /// Writes all of `bytes` behind what was written before.
  package func write(_ bytes: [UInt8]) throws(Errno) {
    let number = descriptor.number
    var done = 0
    while done < bytes.count {
      // The array is ours for the length of the call, and the range is within it.
      let result = unsafe bytes.withUnsafeBytes { bytes in
        let rest = unsafe UnsafeRawBufferPointer(rebasing: bytes[done...])
        #if canImport(Glibc)
          return moving { unsafe Glibc.write(number, rest.baseAddress, rest.count) }
        #else
          return moving { unsafe Darwin.write(number, rest.baseAddress, rest.count) }
        #endif
      }
      switch result {
      case .moved(let count) where count > 0: done += count
      case .moved, .wouldBlock: throw .inputOutput
      case .failed(let error): throw error
      }
    }
  }

  /// Writes the text as UTF-8 behind what was written before.
  package func write(_ text: String) throws(Errno) { try write(Array(text.utf8)) }
}
