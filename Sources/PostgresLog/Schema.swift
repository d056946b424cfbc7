// The tables of a log in PostgreSQL, and who may do what with them.
package import Log

enum Schema {
  /// Raised where the tables change.
  static let version: UInt64 = 1

  /// Bytes are stored as they are: they are compressed badly, and read once. The row of a shard is written with
  /// every append, so its page keeps room for its next versions (heap-only tuples).
  static let tables = """
    create schema holdfast;
    create table holdfast.version (version bigint not null);
    create table holdfast.shard (
      shard int primary key, epoch bigint not null, beats bigint not null, end_lsn bigint not null,
      trimmed_lsn bigint not null, owner text not null, address text not null,
      has_begun boolean not null, is_wanted boolean not null
    ) with (fillfactor = 10);
    create table holdfast.log (
      shard int not null, lsn bigint not null, byte_count bigint not null, epoch bigint not null,
      sequence bigint not null, place bigint not null, mark bigint not null,
      bytes bytea not null, primary key (shard, lsn)
    );
    alter table holdfast.log alter column bytes set storage external;
    create table holdfast.checkpoint (
      name bigint primary key, shard int not null, lsn bigint not null, parts bigint not null default 0,
      is_complete boolean not null default false, made_at timestamptz not null default now()
    );
    create table holdfast.checkpoint_part (
      checkpoint bigint not null references holdfast.checkpoint on delete cascade,
      part bigint not null, bytes bytea not null, primary key (checkpoint, part)
    );
    alter table holdfast.checkpoint_part alter column bytes set storage external;
    create table holdfast.standby (
      name text primary key, address text not null, lsn bigint not null, seen_at timestamptz not null
    );
    insert into holdfast.version values (\(version));
    insert into holdfast.shard values (0, 0, 0, 0, 0, '', '', false, false);
    """

  /// What a server needs, and no more: `role` is quoted as an identifier.
  static func grants(to role: String) -> String {
    """
    grant usage on schema holdfast to \(role);
    grant select on all tables in schema holdfast to \(role);
    grant update on holdfast.shard to \(role);
    grant insert, delete on holdfast.log to \(role);
    grant insert, update, delete on holdfast.checkpoint to \(role);
    grant insert, delete on holdfast.checkpoint_part to \(role);
    grant insert, update, delete on holdfast.standby to \(role);
    """
  }
}

/// Makes the tables in a database, for whoever owns it.
package enum PostgresSchema {
  /// - Parameter role: who gets the rights that a server needs; nil: nobody else.
  /// - Returns: false where the tables are there already.
  /// - Throws: `unsuitable` where they are of another version, or cannot be made; `unreachable`.
  package static func make(
    at address: String, role: String?, nanoseconds: Int64 = 10_000_000_000
  ) throws(JournalError) -> Bool {
    do throws(PostgresError) {
      let connection = try PostgresConnection(address, nanosecondsEach: nanoseconds)
      let isThere =
        try connection.run(
          "select 1 from pg_namespace where nspname = 'holdfast'", nanoseconds: nanoseconds
        ).rows.count > 0
      if !isThere {
        try connection.run(script: "begin; \(Schema.tables) commit;", nanoseconds: nanoseconds)
      }
      if let role {
        let parts = role.split(separator: "\"", omittingEmptySubsequences: false)
        let quoted = "\"" + parts.joined(separator: "\"\"") + "\""
        try connection.run(script: Schema.grants(to: quoted), nanoseconds: nanoseconds)
      }
      return !isThere
    } catch .unreachable(let reason) {
      throw .unreachable("cannot reach the engine: \(reason)")
    } catch {
      throw .unsuitable("cannot make the engine's tables: \(error)")
    }
  }
}
