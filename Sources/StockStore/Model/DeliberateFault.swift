/// Bugs that a store can have, and what opens it or shows its decisions to watchers. Each stands at the line
/// where somebody might make it, so that `make simulate` can show, at any time, that it would be found. Those of
/// the log are `LogFault`.
package enum DeliberateFault: String, Sendable, CaseIterable {
  /// A decision takes its place in the log after others can see what it did.
  case numberAfterUnlock = "number-after-unlock"
  /// The ids that an opening makes follow from what it finds in the directory alone.
  case predictIDs = "predict-ids"
  /// A command that lacks units is refused though some of its items are due to come back.
  case refuseBeforeExpiry = "refuse-before-expiry"
  /// Units of holds that are due and not ended are shown as held.
  case showDueHolds = "show-due-holds"
  /// A hold is worked with by its id until the sweep has ended it.
  case actOnDueHold = "act-on-due-hold"
  /// The sweep never gets to what is due.
  case starveExpiry = "starve-expiry"
  /// What is shipped leaves on hand and stays committed.
  case shipOnHandAlone = "ship-on-hand-alone"
  /// What is sold as committed is on offer again.
  case giveCommittedBack = "give-committed-back"
  /// A reserve takes what is committed for available.
  case offerCommitted = "offer-committed"
  /// What a journal says of committed is not read.
  case loseCommitted = "lose-committed"
  /// A hold that gets other lines may be at any revision.
  case replaceAnyRevision = "replace-any-revision"
  /// A hold that gets other lines gives back what it has, and only then takes what it is to have.
  case replaceHalfway = "replace-halfway"
  /// Of alternatives that can be held, the last is.
  case alternativeNotFirst = "alternative-not-first"
  /// A line that takes what is available takes all that it asks for.
  case partialOverAvailable = "partial-over-available"
  /// What a journal says of the alternative that is held is not read.
  case loseAlternative = "lose-alternative"
  /// Of several adjustments that are made together, those that can be are, and the others not.
  case batchHalfApplied = "batch-half-applied"
  /// Of several adjustments that stand in one record, a replay makes the first.
  case batchHalfReplayed = "batch-half-replayed"
  /// What expires stays with the subject that had a limit for it.
  case limitKeptByExpired = "limit-kept-by-expired"
  /// What a journal says of sales under a limit is not read.
  case limitLosesSales = "limit-loses-sales"
  /// A limit counts what is held, and not what was bought.
  case limitOfHeldAlone = "limit-of-held-alone"
  /// Units that a Replace adds may pass the limit.
  case limitUncheckedByReplace = "limit-unchecked-by-replace"
  /// An import's rows are applied whatever is done already.
  case importRowTwice = "import-row-twice"
  /// A replay makes an import's changes and does not see how far it is.
  case importProgressLost = "import-progress-lost"
  /// An item may still be reserved at the very instant from which it may not.
  case sellUntilIncluded = "sell-until-included"
  /// A hold may get more units of an item that is frozen.
  case replaceFrozen = "replace-frozen"
  /// What a journal says of sale windows is not read.
  case loseSaleWindow = "lose-sale-window"
  /// An item is removed though units of it are held.
  case removeHeldItem = "remove-held-item"
  /// What a journal says of an item's removal is not read.
  case loseRemoval = "lose-removal"
  /// What subjects have bought of an item counts after it was removed.
  case limitOutlivesItem = "limit-outlives-item"
  /// A token is taken for one of this store though a repair has given it other versions since.
  case watchAfterRepair = "watch-after-repair"
  /// The token behind an event covers the whole batch that the event is in.
  case watchTokenOfBatch = "watch-token-of-batch"
  /// A watch that goes on within a block begins with its first event.
  case watchBlockAgain = "watch-block-again"
  /// Events of holds show the safety stock that the item has now.
  case watchSafetyStockNow = "watch-safety-stock-now"
  /// Events from before the process began show the safety stock that was there when it began.
  case watchSafetyStockUnread = "watch-safety-stock-unread"
  /// Of the holds that one turn of the sweep ends, one is told.
  case watchOneExpiry = "watch-one-expiry"
  /// Who comes late to the tail gets a block that was read there, whatever came before it.
  case watchNewestBlock = "watch-newest-block"
}
