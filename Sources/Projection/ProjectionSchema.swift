// The tables, for whoever asks them; docs/PROJECTION.md shows how.

struct ProjectionSchema {
  /// Raised where the tables change.
  static let version: UInt64 = 1

  let name: String
  /// As an identifier.
  let quoted: String

  init(_ name: String) {
    self.name = name
    let parts = name.split(separator: "\"", omittingEmptySubsequences: false)
    quoted = "\"" + parts.joined(separator: "\"\"") + "\""
  }

  /// A name that PostgreSQL keeps as it is.
  static func isName(_ text: String) -> Bool {
    1...63 ~= text.utf8.count && !text.utf8.contains(0) && !text.hasPrefix("pg_")
      && text != "information_schema"
  }

  /// In one transaction. Pages of rows that change often keep room for their next versions (heap-only tuples).
  var tables: String {
    """
    create table \(quoted).version (version bigint not null);
    create table \(quoted).position (
      single boolean primary key default true check (single), changes bigint not null,
      resume_token text, lsn bigint not null, head_lsn bigint not null, complete_lsn bigint not null,
      as_of timestamptz, begun_at timestamptz
    ) with (fillfactor = 10);
    create table \(quoted).item_balance (
      sku text not null, location text not null, on_hand bigint not null, held bigint not null,
      committed bigint not null, safety_stock bigint not null,
      available bigint generated always as (on_hand - held - committed - safety_stock) stored,
      version bigint not null, sellable_from timestamptz, sellable_until timestamptz,
      is_frozen boolean not null default false, lsn bigint not null, primary key (sku, location)
    ) with (fillfactor = 60);
    create table \(quoted).reservation (
      reservation_id text primary key, state text not null, reference text not null, caller text,
      lines jsonb, created_at timestamptz, expires_at timestamptz, ended_at timestamptz,
      lsn bigint not null
    ) with (fillfactor = 80);
    create index on \(quoted).reservation (state, expires_at);
    create index on \(quoted).reservation (reference) where reference <> '';
    create index on \(quoted).reservation (caller) where caller is not null;
    create index on \(quoted).reservation (ended_at) where ended_at is not null;
    create table \(quoted).event (
      lsn bigint primary key, kind text not null, decided_at timestamptz not null,
      reservation_id text, reference text, expires_at timestamptz, caller text,
      idempotency_key text, reason text
    );
    create index on \(quoted).event (decided_at);
    create index on \(quoted).event (reservation_id) where reservation_id is not null;
    create table \(quoted).event_item (
      lsn bigint not null, sku text not null, location text not null, quantity bigint,
      on_hand bigint, held bigint, committed bigint, safety_stock bigint, version bigint,
      primary key (lsn, sku, location)
    );
    create index on \(quoted).event_item (sku, location, lsn);
    create view \(quoted).reservation_line as
      select r.reservation_id, r.state, l.sku, l.location, l.quantity
      from \(quoted).reservation r,
        jsonb_to_recordset(r.lines) as l(sku text, location text, quantity bigint);
    create view \(quoted).status as
      select lsn, head_lsn - lsn as lsns_behind, as_of, now() - as_of as behind,
        resume_token is not null and lsn >= complete_lsn as is_complete
      from \(quoted).position;
    insert into \(quoted).version values (\(Self.version));
    insert into \(quoted).position (changes, lsn, head_lsn, complete_lsn) values (0, 0, 0, 0);
    """ + comments
  }

  private var comments: String {
    let texts = [
      ("table", "version", "Which form the tables of this schema have."),
      (
        "table", "position",
        "One row: up to where the tables go. Changed in the transaction that changes them."
      ),
      (
        "table", "item_balance",
        "The balances of each item, as of position.lsn; no row for one that was removed."
      ),
      ("column", "item_balance.available", "on_hand - held - committed - safety_stock."),
      ("column", "item_balance.version", "Counts the changes of the item."),
      (
        "column", "item_balance.lsn", "The event that brought this; 0: a listing at the beginning."
      ),
      (
        "table", "reservation", "Each reservation and what became of it, as of position.lsn."
      ),
      (
        "column", "reservation.state",
        "HELD, CONFIRMED, RELEASED or EXPIRED; an EXPIRED one may yet become CONFIRMED."
      ),
      (
        "column", "reservation.caller",
        "Who reserved; null where there was none, it may not be seen, or it was before the history."
      ),
      (
        "column", "reservation.lines",
        "Array of {sku, location, quantity}: held; after CONFIRMED: sold. See reservation_line."
      ),
      ("column", "reservation.created_at", "Null where it was before the history and not listed."),
      ("column", "reservation.lsn", "Its newest event; 0: a listing at the beginning."),
      ("table", "event", "Every decision but refusals, once, from where the history began."),
      ("column", "event.kind", "As EventKind in event.proto, without EVENT_KIND_."),
      ("column", "event.decided_at", "By the clock of the server."),
      (
        "table", "event_item",
        "Every item of an event: units of its line (null: none), and its balances right after."
      ),
      ("view", "reservation_line", "A row for each line of each reservation."),
      (
        "view", "status",
        "How far the tables are: all that was decided before as_of is in them, if is_complete."
      ),
    ]
    return texts.map { kind, name, text in
      "\ncomment on \(kind) \(quoted).\(name) is '\(text)';"
    }.joined()
  }
}
