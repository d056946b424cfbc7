// The servers that follow a log in PostgreSQL, by their own word: for whoever operates them. Nothing of the log's
// promise rests on it.
package import Log

package struct EngineMember: Equatable, Sendable {
  package let name: String
  /// Where clients reach it.
  package let address: String
  /// How far its copy of the log has come.
  package let lsn: UInt64
  /// Since it said so, by the engine's clock.
  package let secondsAgo: Double
}

package final class EngineMembers: Sendable {
  /// Who has said nothing for so long is gone.
  private static let keptSeconds = 3600

  private let line: PostgresLine
  private let timeout: Int64

  package init(address: String, timeoutNanoseconds: Int64 = 3_000_000_000) {
    timeout = timeoutNanoseconds
    line = PostgresLine(address, timeout: timeoutNanoseconds) { _ in }
  }

  /// Says that the standby is there, and how far it has come.
  package func note(name: String, address: String, lsn: UInt64) throws(JournalError) {
    try run(
      """
      insert into holdfast.standby values ($1, $2, $3, now())
      on conflict (name) do update set address = $2, lsn = $3, seen_at = now()
      """, [.text(name), .text(address), .int8(lsn)])
    try run(
      "delete from holdfast.standby where seen_at < now() - $1 * interval '1 second'",
      [.int8(UInt64(Self.keptSeconds))])
  }

  package func forget(name: String) throws(JournalError) {
    try run("delete from holdfast.standby where name = $1", [.text(name)])
  }

  /// All that were heard of within the last hour.
  package func list() throws(JournalError) -> [EngineMember] {
    do throws(PostgresError) {
      let rows = try line.run(
        """
        select name, address, lsn, (extract(epoch from now() - seen_at) * 1000)::bigint
        from holdfast.standby order by name
        """, nanoseconds: timeout
      ).rows
      return (0..<rows.count).map {
        EngineMember(
          name: rows.text($0, 0), address: rows.text($0, 1), lsn: rows.number($0, 2),
          secondsAgo: Double(rows.number($0, 3)) / 1000)
      }
    } catch {
      throw .unreachable("the engine: \(error)")
    }
  }

  private func run(_ statement: String, _ values: [PostgresValue]) throws(JournalError) {
    do throws(PostgresError) {
      _ = try line.run(statement, values, nanoseconds: timeout)
    } catch {
      throw .unreachable("the engine: \(error)")
    }
  }
}
