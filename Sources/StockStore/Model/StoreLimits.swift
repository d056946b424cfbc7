/// The store's limits. The values and the reasons for them stand in the executable's Limits.swift.
package struct StoreLimits: Sendable {
  /// Lines of a command, whatever `linesPerReservation` says: as many as a word has bits.
  package static let linesMax = 64

  /// Items that one command changes: all that a hold had and all that it has then.
  package static let changesMax = 2 * linesMax

  /// Alternatives of a reserve besides its lines, and lines of all of them together: all may be tried under one lock.
  package static let alternativesMax = 8
  package static let linesOfAllMax = 2 * linesMax

  /// Whether a refusal can be of so many alternatives, its lines included.
  package static func areTried(_ count: Int64) -> Bool { 2...Int64(1 + alternativesMax) ~= count }

  /// Bytes of the names of all items that one command adjusts, where it may have so many lines: 48 for each. So a
  /// record of them all is hardly longer than others.
  package static func adjustedNameBytesMax(lines: Int) -> Int { 48 * lines }

  /// Bytes of a reference.
  package static let referenceBytesMax = 64

  /// Subjects that one reservation has limits for.
  package static let subjectsMax = 4

  /// Lines of one reservation.
  package var linesPerReservation: Int
  /// Units of a line, on hand and safety stock of an item.
  package var quantityMax: Int64
  /// Shortest time to live, and the one where none is asked for, in nanoseconds.
  package var ttlNanosecondsMin: Int64
  package var ttlNanosecondsDefault: Int64
  /// Longest time to live, and longest life of a hold after it was made, extensions included, in
  /// nanoseconds.
  package var holdNanosecondsMax: Int64
  /// How long a decision is remembered after its reservation ended, or after a refusal, in nanoseconds.
  package var retentionNanoseconds: Int64
  /// Items that the store keeps.
  package var itemsMax: Int
  /// Reservations and recorded decisions that the store keeps, live and ended.
  package var reservationsMax: Int
  /// Holds that are due, or soon will be, that a turn works on before its calls.
  package var expiriesPerTurn: Int
  /// Subjects and items of which the store keeps what the one has of the other.
  package var subjectEntriesMax: Int

  package init(
    linesPerReservation: Int, quantityMax: Int64, ttlNanosecondsMin: Int64,
    ttlNanosecondsDefault: Int64, holdNanosecondsMax: Int64, retentionNanoseconds: Int64,
    itemsMax: Int, reservationsMax: Int, expiriesPerTurn: Int = 1000,
    subjectEntriesMax: Int = 1 << 20
  ) {
    self.linesPerReservation = linesPerReservation
    self.quantityMax = quantityMax
    self.ttlNanosecondsMin = ttlNanosecondsMin
    self.ttlNanosecondsDefault = ttlNanosecondsDefault
    self.holdNanosecondsMax = holdNanosecondsMax
    self.retentionNanoseconds = retentionNanoseconds
    self.itemsMax = itemsMax
    self.reservationsMax = reservationsMax
    self.expiriesPerTurn = expiriesPerTurn
    self.subjectEntriesMax = subjectEntriesMax
  }
}
