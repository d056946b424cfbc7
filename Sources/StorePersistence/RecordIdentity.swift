package import StockStore

extension JournalRecord {
  /// The id of the reservation that a held, confirmed, released, expired or extended record is about.
  package func reservationID(_ core: StoreCore) -> ReservationID {
    let useHash = core.keys.useHash(slot: slot, generation: generation)
    let tag =
      kind == .held
      ? core.idTag(
        useHash, core.keys.identity(.reserve, IdempotencyScope(caller: caller, key: key)),
        createdAt: time)
      : idTag == 0 ? StoreKeys.firstReleaseTag(useHash) : idTag
    return ReservationID(slot: slot, generation: generation, tag: tag)
  }
}
