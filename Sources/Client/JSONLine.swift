// One JSON object a line (RFC 8259), for programs: keys are the names of the .proto files, every key is always there, in
// one order. Units are numbers, at most 2^40; versions, revisions and LSNs, which may be larger than 2^53, are strings.

internal import Bytes

/// Writes one object.
package struct JSONLine {
  private var fields: [(String, JSON)] = []

  package init() {}

  /// The object as it is now.
  package var line: String { String(decoding: object.bytes, as: UTF8.self) }

  private var object: JSON { .object(fields) }

  package mutating func add(_ key: String, _ value: String) { fields.append((key, .text(value))) }

  /// null where there is none.
  package mutating func add(_ key: String, _ value: String?) {
    fields.append((key, value.map { .text($0) } ?? .null))
  }

  package mutating func add(_ key: String, _ value: Int64) { fields.append((key, .int(value))) }

  package mutating func add(_ key: String, _ value: Bool) { fields.append((key, .bool(value))) }

  /// As a string, since not every reader has integers of 64 bits.
  package mutating func add(_ key: String, large value: UInt64) { add(key, String(value)) }

  /// RFC 3339, or null.
  package mutating func add(_ key: String, _ instant: Instant?) { add(key, instant?.description) }

  package mutating func add(_ key: String, _ object: JSONLine?) {
    fields.append((key, object?.object ?? .null))
  }

  package mutating func add(_ key: String, _ objects: [JSONLine]) {
    fields.append((key, .list(objects.map(\.object))))
  }
}

// MARK: Messages

extension StockLevel {
  package var json: JSONLine {
    var line = JSONLine()
    line.add("sku", item.sku)
    line.add("location", item.location)
    line.add("on_hand", onHand)
    line.add("held", held)
    line.add("committed", committed)
    line.add("safety_stock", safetyStock)
    line.add("available", available)
    line.add("version", large: version)
    line.add("sale", sale?.json)
    return line
  }
}

extension SaleWindow {
  var json: JSONLine {
    var line = JSONLine()
    line.add("sellable_from", from)
    line.add("sellable_until", until)
    line.add("frozen", isFrozen)
    return line
  }
}

extension ReservationLine {
  var json: JSONLine {
    var line = JSONLine()
    line.add("sku", item.sku)
    line.add("location", item.location)
    line.add("quantity", quantity)
    return line
  }
}

extension Reservation {
  package var json: JSONLine {
    var line = JSONLine()
    line.add("reservation_id", id)
    line.add("state", state.name)
    line.add("lines", lines.map(\.json))
    line.add("created_at", createdAt)
    line.add("expires_at", expiresAt)
    line.add("ended_at", endedAt)
    line.add("reference", reference)
    line.add("revision", large: revision)
    return line
  }
}

extension HeldReservation {
  /// - Parameter asked: the lines of the request.
  package func json(_ asked: [ReservationLine], reference: String, key: String) -> JSONLine {
    var line = JSONLine()
    line.add("reservation_id", id)
    line.add("state", state.name)
    line.add("lines", (lines.isEmpty ? asked : lines).map(\.json))
    line.add("expires_at", expiresAt)
    line.add("reference", reference)
    line.add("replayed", isReplayed)
    line.add("idempotency_key", key)
    return line
  }
}

extension Event {
  /// - Parameter resumeToken: covers everything up to this event and itself; nil: what came with it has no end yet.
  package func json(resumeToken: String?) -> JSONLine {
    var line = JSONLine()
    line.add("lsn", large: lsn)
    line.add("kind", kind.name)
    line.add("decided_at", decidedAt)
    line.add("reservation_id", reservationID)
    line.add("reference", reference)
    line.add("lines", lines.map(\.json))
    line.add("expires_at", expiresAt)
    line.add("stock", stock.map(\.json))
    line.add("caller", caller)
    line.add("idempotency_key", idempotencyKey)
    line.add("reason", reason)
    line.add("resume_token", resumeToken)
    return line
  }
}

extension JSONLine {
  /// `{"error":{…}}` of what no server has said.
  package static func failure(_ text: String, exitStatus: Int32) -> JSONLine {
    CallFailure(.interrupted, text).json(code: "CLIENT", exitStatus: exitStatus)
  }
}

extension CallFailure {
  /// `{"error":{…}}`.
  package var json: JSONLine { json(code: codeName, exitStatus: exitStatus) }

  fileprivate func json(code: String, exitStatus: Int32) -> JSONLine {
    var error = JSONLine()
    error.add("code", code)
    error.add("reason", details.reason)
    error.add("message", text)
    var metadata = JSONLine()
    for entry in details.metadata { metadata.add(entry.name, entry.value) }
    error.add("metadata", metadata)
    error.add(
      "violations",
      details.violations.map { violation in
        var line = JSONLine()
        line.add("subject", violation.subject)
        line.add("description", violation.description)
        return line
      })
    error.add("hint", hint)
    error.add("server", server)
    error.add("outcome_unknown", isOutcomeUnknown)
    error.add("idempotency_key", idempotencyKey.isEmpty ? nil : idempotencyKey)
    error.add("exit_status", Int64(exitStatus))
    var line = JSONLine()
    line.add("error", error)
    return line
  }
}
