// The store's values as protobuf fields.
internal import Bytes
internal import Posix
internal import StockStore

extension ProtoWriter {
  func field(_ number: Int, _ bytes: BorrowedBytes) {
    let bytes = unsafe bytes.pointer.bindMemory(to: UInt8.self)
    field(number, unsafe bytes.span)
  }

  func field(_ number: Int, _ id: ReservationID) {
    field(number, length: ReservationID.textLength) { id.write(to: &$0) }
  }

  /// A google.protobuf.Timestamp. The store's times are after 1970.
  func field(_ number: Int, _ time: Timestamp) { field(number, seconds: time.nanoseconds) }
}
