internal import CPlatform

/// The process's heap.
package enum Memory {
  /// Gives free pages of the heap back to the system: without it a thread's heap keeps the size of its
  /// largest burst. Takes some milliseconds for each 100 MiB; any thread.
  package static func trim() { hf_trim_heap() }
}
