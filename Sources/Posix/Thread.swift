internal import CPlatform
internal import Glibc

/// A plain thread: event loops are not tasks, since they block in epoll_wait.
package final class Thread: Sendable {
  private let handle: pthread_t

  /// Runs `body` on a new thread. `name` is cut to 15 bytes, as the kernel does.
  package init(name: String, _ body: @escaping @Sendable () -> Void) throws(Errno) {
    let start = unsafe Unmanaged.passRetained(Start(name: name, body: body))
    var handle = pthread_t()
    let code = unsafe pthread_create(
      &handle, nil,
      { argument in
        // The other end of passRetained: exactly one thread takes it.
        let start = unsafe Unmanaged<Start>.fromOpaque(argument!).takeRetainedValue()
        unsafe hf_name_thread(start.name)
        start.body()
        return nil
      }, unsafe start.toOpaque())
    if code != 0 {
      unsafe start.release()
      throw Errno(code: code)
    }
    self.handle = handle
  }

  /// Waits for the body to return. Call it once.
  package func join() { _ = pthread_join(handle, nil) }

  private final class Start: Sendable {
    let name: String
    let body: @Sendable () -> Void
    init(name: String, body: @escaping @Sendable () -> Void) {
      self.name = name
      self.body = body
    }
  }
}

/// Facts of the machine and the process.
package enum Machine {
  /// Processors that this process has work for: those it may run on (sched_getaffinity(2)), and no more
  /// than its control groups give it time for, rounded up. At least 1.
  package static var usableProcessors: Int {
    let allowed = max(1, Int(hf_usable_processors()))
    guard let quota = ControlGroups.processorQuota() else { return allowed }
    return max(1, min(allowed, Int(quota.rounded(.up))))
  }

  /// Raises the limit of open descriptors to what the system allows. The new limit.
  @discardableResult
  package static func raiseDescriptorLimit() -> Int {
    var limit = rlimit()
    guard unsafe getrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit) == 0 else {
      return 1024
    }
    if limit.rlim_cur < limit.rlim_max {
      limit.rlim_cur = limit.rlim_max
      _ = unsafe setrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit)
      _ = unsafe getrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit)
    }
    return Int(clamping: limit.rlim_cur)
  }

  /// Raises the limit of a file's size to what the system allows. The new limit in bytes, or nil where
  /// there is none.
  @discardableResult
  package static func raiseFileSizeLimit() -> Int? {
    var limit = rlimit()
    guard unsafe getrlimit(__rlimit_resource_t(RLIMIT_FSIZE.rawValue), &limit) == 0 else {
      return nil
    }
    if limit.rlim_cur < limit.rlim_max {
      limit.rlim_cur = limit.rlim_max
      _ = unsafe setrlimit(__rlimit_resource_t(RLIMIT_FSIZE.rawValue), &limit)
      _ = unsafe getrlimit(__rlimit_resource_t(RLIMIT_FSIZE.rawValue), &limit)
    }
    // RLIM_INFINITY is all ones.
    return limit.rlim_cur == .max ? nil : Int(clamping: limit.rlim_cur)
  }

  /// A variable of the environment; nil where it is not set. Nobody sets one while threads run.
  package static func environment(_ name: String) -> String? {
    unsafe getenv(name).map { unsafe String(cString: $0) }
  }

  /// The number of this process.
  package static var processID: Int32 { getpid() }

  /// CPU time of the whole process so far, user and system, in nanoseconds.
  package static func processCPUNanoseconds() -> Int64 {
    var time = timespec()
    _ = unsafe clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time)
    return Int64(time.tv_sec) * 1_000_000_000 + Int64(time.tv_nsec)
  }

  /// Lets the calling thread's timeouts end on time: Linux rounds them up by 50 us otherwise.
  package static func usePreciseTimers() { hf_use_precise_timers() }

  /// CPU time of the calling thread so far in nanoseconds.
  package static func threadCPUNanoseconds() -> Int64 { hf_thread_cpu_nanoseconds() }

  /// 64 unpredictable bits (getrandom through the system's generator).
  package static func random64() -> UInt64 {
    var generator = SystemRandomNumberGenerator()
    return generator.next()
  }
}
