// An epoll set (epoll(7)), level-triggered. Each registration carries a 64-bit token chosen by the
// owner; put a generation into it, so that a stale event of a reused descriptor can be told.
internal import CPlatform
internal import Glibc

/// One thread's set of descriptors to watch.
@safe package struct Poller: ~Copyable {
  /// What happened to one registration.
  package struct Event {
    package let token: UInt64
    package let isReadable: Bool
    package let isWritable: Bool
    /// The peer hung up or the descriptor failed; reading says which.
    package let isHungUp: Bool
  }

  private let epoll: FileDescriptor
  private let events: UnsafeMutablePointer<epoll_event>
  /// Most events that one `wait` answers; the kernel keeps the rest for the next.
  package let capacity: Int

  /// Its own descriptor: readable, for another poller, while `wait` would not wait.
  package var number: Int32 { epoll.number }

  package init(capacity: Int = 512) throws(Errno) {
    epoll = FileDescriptor(owning: try retrying { epoll_create1(Int32(EPOLL_CLOEXEC)) })
    unsafe events = .allocate(capacity: capacity)
    unsafe events.initialize(repeating: epoll_event(), count: capacity)
    self.capacity = capacity
  }

  deinit { unsafe events.deallocate() }

  /// Watches `descriptor` for reading, and for writing too where `writable`.
  package borrowing func add(_ descriptor: Int32, token: UInt64, writable: Bool = false)
    throws(Errno)
  {
    try control(EPOLL_CTL_ADD, descriptor, token, readable: true, writable: writable)
  }

  /// Changes what `descriptor` is watched for.
  package borrowing func modify(
    _ descriptor: Int32, token: UInt64, readable: Bool, writable: Bool
  ) throws(Errno) {
    try control(EPOLL_CTL_MOD, descriptor, token, readable: readable, writable: writable)
  }

  /// Stops watching. Closing the descriptor does the same.
  package borrowing func remove(_ descriptor: Int32) throws(Errno) {
    try control(EPOLL_CTL_DEL, descriptor, 0, readable: false, writable: false)
  }

  private borrowing func control(
    _ operation: Int32, _ descriptor: Int32, _ token: UInt64, readable: Bool, writable: Bool
  ) throws(Errno) {
    var event = unsafe epoll_event()
    unsafe event.events =
      (readable ? EPOLLIN.rawValue | EPOLLRDHUP.rawValue : 0)
      | (writable ? EPOLLOUT.rawValue : 0)
    unsafe event.data.u64 = token
    _ = try retrying { unsafe epoll_ctl(epoll.number, operation, descriptor, &event) }
  }

  /// Waits until something happens or `timeoutMilliseconds` passed (-1: for ever). The number of
  /// events, to be read with `event(at:)` before the next wait.
  package borrowing func wait(timeoutMilliseconds: Int32) throws(Errno) -> Int {
    let count = unsafe epoll_wait(epoll.number, events, Int32(capacity), timeoutMilliseconds)
    if count >= 0 { return Int(count) }
    let error = Errno.current
    if error.code == EINTR { return 0 }
    throw error
  }

  /// As `wait(timeoutMilliseconds:)`, to the nanosecond (epoll_pwait2(2), since Linux 5.11), for
  /// those who send on a schedule. A timeout below 0 counts as 0.
  package borrowing func wait(timeoutNanoseconds: Int64) throws(Errno) -> Int {
    let timeout = max(0, timeoutNanoseconds)
    var time = timespec(
      tv_sec: Int(timeout / 1_000_000_000), tv_nsec: Int(timeout % 1_000_000_000))
    let count = unsafe epoll_pwait2(epoll.number, events, Int32(capacity), &time, nil)
    if count >= 0 { return Int(count) }
    let error = Errno.current
    if error.code == EINTR { return 0 }
    throw error
  }

  /// Event `index` of the last wait.
  package borrowing func event(at index: Int) -> Event {
    precondition(index >= 0 && index < capacity, "no such event")
    let event = unsafe events[index]
    return unsafe Event(
      token: event.data.u64,
      isReadable: event.events & EPOLLIN.rawValue != 0,
      isWritable: event.events & EPOLLOUT.rawValue != 0,
      isHungUp: event.events & (EPOLLHUP.rawValue | EPOLLERR.rawValue | EPOLLRDHUP.rawValue) != 0)
  }
}
